"""Parts of the golden vectors."""
