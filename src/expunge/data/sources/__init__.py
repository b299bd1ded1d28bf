"""Data sources, one per file: where images are read from."""
