"""Finished runs as tables, charts and one page."""

from pathlib import Path

from expunge.report import tables
from expunge.report.html import write
from expunge.report.results import Results, Row, load

__all__ = ["Results", "Row", "load", "terminal", "write"]


def terminal(folder: Path) -> tuple[str, list[str], list[list[str]]]:
    """The comparison in a folder of runs as a title, column heads and rows of text, for a terminal.

    Raises:
        RequestError: The folder holds no evaluations, or a file in it cannot be read.
    """
    return tables.terminal(tables.summarise(load(folder)))
