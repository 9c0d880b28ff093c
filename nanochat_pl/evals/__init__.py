"""What measures a model: bits per byte, CORE, the questions of tasks."""
