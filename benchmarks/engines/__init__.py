"""One run on every engine: the table, the peers, the floors, and the goals."""
