"""What every room may use: files, YAML fields, numbers, Markdown, threads, the terminal. Knows nothing of behavior."""
