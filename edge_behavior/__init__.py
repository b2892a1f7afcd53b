"""edgeb: from a behavior log to an on-device model of the next behavior."""

__version__ = "0.1.0"
