"""Every option of every method, preset and pruner on the command line: shown by --help, read, refused if wrong."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from expunge.cli import _plugin
from expunge.cli.unlearn import Arguments
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import presets
from tests.command_line import Terminal

METHODS = sorted({*registry.plugins("methods"), *presets.PRESETS})
PRUNERS = list(registry.plugins("pruning"))
ALIASES = [alias for plugin in registry.plugins("methods").values() for alias in plugin.mark.aliases]


def words(default: object) -> list[str]:
    """Every option with its default, as on the command line; a rule's are its own unless the method has the name."""
    names = config.field_names(type(default))
    found = []
    for name in names:
        value = getattr(default, name)
        if isinstance(value, (Rule, PerRole)) or (name == "epochs" and getattr(default, "steps", None)):
            continue
        found += [f"--{name.replace('_', '-')}", config.written(value)]
    return found


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_every_option_of_a_method(name: str, terminal: Terminal) -> None:
    shown = terminal("unlearn", name.replace("_", "-"), "--help")
    for option in words(presets.named(name).method)[::2]:
        assert option in shown
    assert ("weight-decay" in shown) == bool(presets.rules(presets.named(name)))
    assert "--update-mask.fraction" in shown
    assert "--adapters.rank" in shown


@pytest.mark.parametrize("name", [*METHODS, *ALIASES])
def test_every_option_may_be_given_with_its_default(name: str) -> None:
    default = presets.named(name)
    found, options = _plugin.named([name, *words(default.method)], METHODS + ALIASES, "method")
    assert presets.named(found, options) == default
    if "" in presets.rules(default):
        for field in dataclasses.fields(Rule):
            option = ["--rule." + field.name, config.written(getattr(presets.rules(default)[""], field.name))]
            assert presets.named(name, _plugin.named([name, *option], METHODS + ALIASES, "method")[1]) == default


def test_no_option_of_a_method_is_one_of_the_command() -> None:
    """It would never reach the method."""
    common = {field.name for field in dataclasses.fields(Arguments)}
    for name in METHODS:
        assert not common & set(config.field_names(type(presets.named(name).method)))
    assert not common & set(config.field_names(Rule))


@pytest.mark.parametrize("name", PRUNERS)
def test_help_and_options_of_a_pruner(name: str, terminal: Terminal) -> None:
    plugin = registry.find("pruning", name)
    shown = terminal("prune", name.replace("_", "-"), "--help")
    assert plugin.summary.split()[0] in shown
    given = words(plugin.config())
    assert all(option in shown for option in given[::2])
    assert (
        config.override(plugin.config, {}, _plugin.named([name, *given], PRUNERS, "pruner")[1], name) == plugin.config()
    )


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("scrub --epochs 5", {"epochs": "5"}),
        ("--epochs 5 scrub", {"epochs": "5"}),
        ("--epochs=5 scrub --forget.lr 0.1", {"epochs": "5", "forget.lr": "0.1"}),
        ("scrub --rewind", {"rewind": "true"}),
        ("scrub --no-rewind", {"rewind": "false"}),
        ("scrub --no-update-mask", {"update_mask": "false"}),
        ("scrub --update-mask.layers fc conv1", {"update_mask.layers": "fc+conv1"}),
        ("scrub --alpha -0.5", {"alpha": "-0.5"}),
    ],
)
def test_words_become_options(given: str, options: dict[str, str]) -> None:
    assert _plugin.named(given.split(), METHODS, "method") == ("scrub", options)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("--epochs 5", "name a method"),
        ("scrub 5", "'5' belongs to no option"),
        ("scrub --epochs 5 --epochs 6", "--epochs is given twice"),
    ],
)
def test_words_that_mean_nothing_are_refused(given: str, cure: str) -> None:
    with pytest.raises(RequestError, match=cure):
        _plugin.named(given.split(), METHODS, "method")


def test_errors_of_the_command_line_are_one_line(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--limit", 60, "--test-limit", 20, "--epochs", 1, "--model", "logistic", "--runs", tmp_path]
    run = terminal.folder("train", *options)
    for wrong, cure in (
        (["scrub", "--epoch", 3], "did you mean epochs"),
        (["boundary-shrink", "--epochs", "many"], "expected int, got 'many'"),
        (["hessian-free", "--variant", "additive", "--vectors", "nowhere"], "--vectors: .*nowhere is no run"),
    ):
        assert terminal.status("unlearn", "--run", run, "--forget", "class:3", *wrong)[0] == 2
        assert len(terminal.error.strip().splitlines()) == 1
        assert re.search(cure, terminal.error)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["retrain"], {}),
        (["retrain_ls"], {"label_smoothing": 0.1}),
        (["retrain_sam"], {"rho": 2.0, "adaptive": True}),
        (["retrain-ls", "--epochs", "1", "--lr", "0.5"], {"label_smoothing": 0.1, "epochs": 1, "lr": 0.5}),
    ],
)
def test_retraining_repeats_the_training_but_for_what_its_name_and_options_say(
    words: list[str], expected: dict[str, object], tmp_path: Path, terminal: Terminal
) -> None:
    plan = {"epochs": 2, "label_smoothing": 0.0, "lr": 0.03, "rho": 0.0, "adaptive": False}
    options = ["--limit", 60, "--test-limit", 20, "--epochs", 2, "--lr", 0.03, "--model", "logistic"]
    run = terminal.folder("train", *options, "--runs", tmp_path)
    found = terminal.folder("unlearn", "--run", run, "--forget", "class:3", *words)
    method = json.loads((found / "config.json").read_text())["unlearning"]["method"]
    given = {**method["rule"], **method}
    assert {name: given[name] for name in plan} == plan | expected
