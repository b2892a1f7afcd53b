"""The paper's tables: its numbers, and ours in the same form with what each system costs."""
