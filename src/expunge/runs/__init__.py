"""The kinds of runs, one per file."""
