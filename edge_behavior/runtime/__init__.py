"""The runtime: load a bundle, predict over the candidate set."""
