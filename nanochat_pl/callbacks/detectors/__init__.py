"""What is unusual about a series of numbers: pure functions of what was seen, without torch or Lightning."""
