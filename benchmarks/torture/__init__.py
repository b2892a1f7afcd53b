"""Robustness campaigns: corrupted files, fuzzed logs, kills, long sessions, threads, malformed requests."""
