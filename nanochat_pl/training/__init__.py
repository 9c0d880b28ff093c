"""One stage of one run: prepared from its configuration, and fitted."""
