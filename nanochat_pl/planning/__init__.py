"""What a run will take, worked out before anything is downloaded or allocated."""
