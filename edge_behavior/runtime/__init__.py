"""The Python runtime: load a bundle, predict over its candidate set."""
