"""What training, export, runtime and phone share: events, prompts, the label trie, scoring, habits.

The Kotlin core ports it. Imports nothing of the package but errors; NumPy is all it needs.
"""
