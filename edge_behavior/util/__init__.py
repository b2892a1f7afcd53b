"""Files, fields, threads, the terminal and the workspace: what every room may use. Knows nothing of behavior."""
