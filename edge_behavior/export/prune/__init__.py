"""A smaller vocabulary: which tokens stay, and whether predictions do."""
