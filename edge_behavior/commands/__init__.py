"""One module per group of `edgeb` commands; each is imported only when it is called."""
