"""The dry run: counts, memory and time before anything is trained."""
