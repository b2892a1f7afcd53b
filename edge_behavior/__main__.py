"""`python -m edge_behavior` is `edgeb`."""

from edge_behavior.cli import main

main()
