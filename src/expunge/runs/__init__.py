"""The kinds of runs, and how each is made."""
