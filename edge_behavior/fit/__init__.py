"""What is fitted on held-out users at export: calibration, and the mixture of model and habits."""
