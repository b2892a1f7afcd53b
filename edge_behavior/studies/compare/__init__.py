"""`edgeb compare`: every system on the same windows of one log, from raw predictions to words."""
