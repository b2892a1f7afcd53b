"""Tables become token rows, made when their batch comes."""
