"""The doctor: what is wrong with a machine or a run, read from what is on the disk."""
