"""Poisons, one per file."""
