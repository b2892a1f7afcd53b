"""A log or history file's records, found by content: delimited text, JSON lines, JSON lists; and history files."""
