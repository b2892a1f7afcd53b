"""Export to a Hugging Face folder: the merged model for every other tool."""
