"""What the llama.cpp backend needs of the library: loading models, its log, the trial of a new build."""
