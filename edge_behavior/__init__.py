"""edgeb: from a behavior log to an on-device next-behavior model."""

__version__ = "0.1.0"
