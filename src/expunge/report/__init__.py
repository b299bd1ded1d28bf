"""Finished runs as tables, charts and one page."""
