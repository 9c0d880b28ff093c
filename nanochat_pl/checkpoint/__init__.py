"""The portable model folder: what a finished or running training leaves for use elsewhere."""
