"""Every command of ``docs/coming_from`` and of no other place: its names are known, and it does its work, small."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from expunge.core import config
from tests import problems
from tests.command_line import ROOT, Terminal

PAGES = sorted((ROOT / "docs" / "coming_from").glob("*.md"))
LINE = re.compile(r"(?:(?P<name>[A-Z]+)=\$\()?expunge (?P<words>.*?)\)?")
NUMBERS = {"--epochs": 1, "--steps": 3, "--rounds": 2, "--rewind": 1, "--batch-size": 32, "--maximise-epochs": 1}
"""Less work: one epoch, three steps."""
SMALL = {"--data": "digits", "--model": "small_cnn:width=4,blocks=1", "--limit": "100"}
FORGET = {"random": "random:10", "released": "released:9,seed=2", "class": "class:3"}


def commands(page: Path) -> list[tuple[str | None, list[str]]]:
    """The commands of the blocks of a page: the variable that keeps the run, and the words."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    found = []
    for line in "".join(blocks).splitlines():
        read = LINE.fullmatch(line)
        assert read, f"{page.name}: {line} is no command"
        found.append((read["name"], shlex.split(read["words"])))
    return found


def known(option: str, value: str) -> None:
    """The value of an option can be read: a data source, a model, a forget set."""
    kinds = {"--data": "data", "--model": "models", "--forget": "forget_sets"}
    if option in kinds:
        config.parse(kinds[option], value)


def small(words: list[str]) -> list[str]:
    """The same command on few digits with a small network."""
    given = list(words)
    for place, option in enumerate(given[:-1]):
        value = given[place + 1]
        if option.startswith("--"):
            known(option, value)
        if option == "--forget":
            given[place + 1] = FORGET[value.partition(":")[0]]
        elif option == "--model" and "--record" in words:
            pass
        elif option in SMALL or option in NUMBERS:
            given[place + 1] = str(SMALL.get(option, NUMBERS.get(option)))
    if given[0] == "train" and "--limit" not in given:
        given += ["--limit", "100"]
    return given + (["--test-limit", "40"] if given[0] in ("train", "import") else [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(
    page: Path, tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = problems.architecture(SMALL["--model"], (1, 8, 8), 10, seed=0)
    torch.save({"state_dict": network.state_dict()}, "0model_SA_best.pth.tar")
    runs: dict[str, str] = {}
    for name, words in commands(page):
        given = small([runs.get(word.removeprefix("$"), word) if word[0] == "$" else word for word in words])
        printed = terminal(*given)
        if name is not None:
            runs[name] = printed.splitlines()[-1]
