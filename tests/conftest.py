"""One thread for every test, as others only wait for each other on problems this small; and the command line."""

import pytest
import torch

from tests.command_line import Terminal

torch.set_num_threads(1)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Runs commands and reads what they print."""
    return Terminal(capsys)
