"""llama.cpp: models and plain contexts, its log, and the trial of a build that this CPU has not seen."""
