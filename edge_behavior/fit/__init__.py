"""What is fitted on held-out users: calibration, and how model and habits are mixed."""
