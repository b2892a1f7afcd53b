"""The run folder: what it holds, how a run starts and resumes, and whether its files are those of the training."""
