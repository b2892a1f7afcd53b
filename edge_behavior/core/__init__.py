"""What training, export, runtime and phone share: events, prompts, label trie, scoring, search, habits, calibration.

The Kotlin core is a port of it. Imports nothing of the package but errors; NumPy is all it needs.
"""

# Candidates that a prediction returns unless told otherwise.
DEFAULT_TOP_K = 5
# Events by which a session's window grows before it is cut to the last L.
REBASE_EVERY = 20
