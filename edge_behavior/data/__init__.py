"""Behavior logs in, dataset folders out: importers, the simulator, splits, windows, descriptions.

Knows nothing of prompts, tokens or models, and imports none of what they need. The modules are imported by name;
DuckDB, PyArrow and Matplotlib (the `[data]` extra) load only with the module that uses them.
"""
