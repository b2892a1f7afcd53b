"""The systems that edgeb's own tuned language model is compared with."""
