"""Data sets of the Hugging Face hub: their files, read over the network or kept in a bounded cache."""
