"""Forget sets, one per file."""
