"""Synthetic users, generated from a seed."""
