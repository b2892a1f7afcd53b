"""Measuring a bundle per prediction."""
