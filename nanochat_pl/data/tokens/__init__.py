"""Data tokenized once, into files that training maps into memory."""
