"""Is it still the same model? The gate after every step, and what is tried when it fails."""
