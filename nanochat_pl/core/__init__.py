"""Shared types, errors, paths, logging and the hardware table: standard library and torch only."""
