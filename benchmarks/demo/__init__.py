"""`make demo`: the whole path on a simulated log, one `edgeb` command after the other (`__main__`)."""
