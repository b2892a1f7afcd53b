"""Systems built on a language model, besides edgeb's own: what the paper's tables compare with."""
