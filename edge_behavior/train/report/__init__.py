"""What a run says of itself: the HTML page, its plots, the model card."""
