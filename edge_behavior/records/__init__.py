"""Records of log and history files: delimited text, JSON lines and JSON lists, told apart by content."""
