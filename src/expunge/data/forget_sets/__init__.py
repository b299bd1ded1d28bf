"""Forget sets, one per file: which training examples are to be forgotten."""
