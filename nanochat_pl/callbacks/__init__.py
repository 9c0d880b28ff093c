"""What happens on a cadence beside the training: one concern a file; none changes a gradient."""
