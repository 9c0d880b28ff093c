"""What measures a model: bits per byte, later CORE and task suites."""
