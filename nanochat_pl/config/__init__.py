"""From command-line arguments to checked specs, and readable errors where that fails."""
