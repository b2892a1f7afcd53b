"""The assistant as a local web page: a day's events, what the bundle predicts next, and what is made of it."""
