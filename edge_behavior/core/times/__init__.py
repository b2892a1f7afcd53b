"""Local times: parsed from what a log writes, and checked against the order of events."""
