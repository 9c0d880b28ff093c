"""What a model learns from and is asked: one file a task, each a numbered series of conversations with a score."""
