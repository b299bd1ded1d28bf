"""Every method, preset, alias, pruner, score and recipe does its work, small, on the real command line."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from expunge.bench import recipes
from expunge.core import config, masks, registry
from expunge.unlearning import presets
from tests.command_line import Terminal
from tests.runs import digits

PLUGINS = registry.plugins("methods")
ALIASES = [
    *(alias for plugin in PLUGINS.values() for alias in plugin.mark.aliases),
    *(alias for preset in presets.PRESETS.values() for alias in preset.aliases),
]
NAMES = sorted({*PLUGINS, *presets.PRESETS, *ALIASES})
QUICK = {
    "epochs": 1,
    "pretrain_steps": 1,
    "samples": 20,
    "backbone_is_public": True,
    "repeatable": True,
    "budget": 1e6,
    "linear": True,
}
"""Options that make a method quick, or say what only its user knows."""
SMALL = ["--limit", 100, "--test-limit", 40, "--epochs", 2, "--batch-size", 32]
RECORDED = ["--momentum", 0, "--weight-decay", 0.01, "--record"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("everything")


@pytest.fixture
def original(store: Path, terminal: Terminal) -> Path:
    """A recorded training of a convex model: every method can unlearn from it."""
    return terminal.folder("train", *SMALL, *RECORDED, "--model", "logistic", "--runs", store)


def quick(name: str) -> list[object]:
    """Those options that the method has."""
    known = config.field_names(type(presets.named(name).method))
    given = {key.replace("_", "-"): value for key, value in QUICK.items() if key in known}
    return [word for key, value in given.items() for word in (f"--{key}", config.written(value))]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_by_every_name(name: str, original: Path, terminal: Terminal) -> None:
    chosen = ["--run", original, "--forget", "random:10%"]
    run = terminal.folder("unlearn", *chosen, name.replace("_", "-"), *quick(name))
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    reference = terminal.folder("unlearn", *chosen, "retrain")
    found = terminal.json("evaluate", "--run", run, "--reference", reference)
    assert 0 <= found["metrics"]["average_gap"] < 100


@pytest.mark.parametrize("name", registry.plugins("pruning"))
def test_every_pruner(name: str, store: Path, terminal: Terminal) -> None:
    dense = terminal.folder("train", *SMALL, "--model", "mlp:hidden=8", "--runs", store)
    run = terminal.folder("prune", "--run", dense, name.replace("_", "-"), "--rate", 0.5, "--linear")
    unlearned = terminal.folder("unlearn", "--run", run, "--forget", "random:10%", "finetune", "--epochs", 1)
    rounds = getattr(registry.find("pruning", name).config(), "rounds", 1)
    found = terminal.json("evaluate", "--run", unlearned)["metrics"]["sparsity"]
    assert found == pytest.approx(100 * (1 - 0.5**rounds), abs=2)


@pytest.mark.parametrize("name", registry.plugins("scores"))
def test_every_score(name: str, original: Path, tmp_path: Path, terminal: Terminal) -> None:
    terminal("score", "--run", original, name.replace("_", "-"), "--csv", tmp_path / "scores.csv")
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 90  # a tenth is set aside for validation


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipes.names() if "ablation" not in name or name.endswith("lr")])
def test_every_recipe(name: str, tmp_path: Path, terminal: Terminal) -> None:
    """With all its methods, on few digits, at its last pruning and first variation; one of the ablations."""
    full = recipes.find(name)
    images = dataclasses.replace(full.data, source=digits().source, limit=100, test_limit=40)
    small = dataclasses.replace(
        full,
        data=images,
        model=config.parse("models", "logistic" if full.training.record else "small_cnn:width=4,blocks=1"),
        training=dataclasses.replace(full.training, epochs=2),
        forget=full.forget if full.data.poison else "random:10%",
        prunings=full.prunings[-1:],
        variations=full.variations[:1],
        seeds=1,
    )
    (tmp_path / "recipe.json").write_text(json.dumps(config.to_data(small)))
    found = terminal.json("bench", tmp_path / "recipe.json", "--out", tmp_path / "out", "--jobs", 1)
    assert {row["status"] for row in found["rows"]} == {"finished"}
    assert len(found["rows"]) > len(full.methods)
    assert Path(found["report"]).stat().st_size > 10_000


def test_masks_of_several_shares_come_from_scores_that_unlearning_shares(
    original: Path, tmp_path: Path, terminal: Terminal
) -> None:
    chosen = ["--run", original, "--forget", "random:10%"]
    found = terminal.json("mask", *chosen, "--fractions", 0.2, 0.5, "--out", tmp_path)
    small, half = (masks.load(Path(path)) for path in found["masks"])
    assert (small.density(), half.density()) == pytest.approx((0.2, 0.5), abs=0.01)
    assert all(bool((half[name] | ~small[name]).all()) for name in small), "the smaller is part of the larger"
    run = terminal.folder("unlearn", *chosen, "finetune", "--epochs", 1, "--update-mask.fraction", 0.5)
    parents = json.loads((run / "run.json").read_text())["parents"]
    assert parents["saliency"] == Path(found["scores"]).name
    stored = masks.load(run / "mask.safetensors")
    assert all(torch.equal(stored[name], half[name]) for name in half)
    assert "no file" in terminal.refused("mask", *chosen, "--score", "random")
