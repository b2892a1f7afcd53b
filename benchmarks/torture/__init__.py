"""Campaigns of damage: corrupted files, fuzzed logs, kills, long sessions, threads, malformed requests."""
