"""Recipes expand to runs that can be made, with the published numbers; variations of a comparison."""

import dataclasses
import json
from pathlib import Path

import pytest

from expunge.bench import grid, recipes, tuning
from expunge.bench.grid import Comparison, entries
from expunge.cli import demo
from expunge.core import config
from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.split_data import DataConfig
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import retraining
from expunge.store.run import parents, run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_expands_to_runs_that_json_holds(name: str) -> None:
    wanted = recipes.find(name)
    assert wanted.name == name
    assert recipes.summary(name)
    assert grid.from_json(config.to_data(wanted)) == wanted
    cells = entries(wanted)
    assert len({(cell.label, cell.seed, cell.scenario) for cell in cells}) == len(cells)
    for cell in cells:
        before = parents(cell.run)
        known = {run_id(each): each for each in before.values()}
        assert config.run_from_data(config.run_to_data(cell.run), known) == cell.run
        assert before.keys() == {"original", "subject", "reference"}
        assert cell.run.reference.original == cell.run.subject.original


def test_the_demo_is_said_to_take_one_time() -> None:
    """In the README, in the help and in the list of recipes."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for text in (recipes.summary("demo"), demo.__doc__ or "", readme):
        assert "about half a minute on two idle cores" in text


@pytest.mark.parametrize(("recipe", "file"), [("cifar10-small", "cifar10_small")])
def test_tuned_methods_are_the_best_trials_of_their_file(recipe: str, file: str) -> None:
    found = json.loads((Path(tuning.__file__).parent / "recipes" / "tuned" / f"{file}.json").read_text())
    assert len(recipes.find(recipe).methods) == len(found["methods"])
    assert found["command"].startswith(f"expunge tune {recipe} --trials")
    for text, searched in zip(recipes.find(recipe).methods, found["methods"], strict=True):
        gaps = {trial["method"]: trial["gap"] for trial in searched["trials"]}
        assert text == f"{searched['method']} as {searched['label']}"
        assert gaps[searched["method"]] == searched["gap"] == min(gaps.values())


def test_private_helpers_are_no_recipes() -> None:
    assert not any(name.startswith(("_", "-")) for name in recipes.names())
    with pytest.raises(RequestError, match="did you mean"):
        recipes.find("hessian-free-quik")


# Epochs, examples (None: all there are), batch, forgotten, rate, L2, decay at each step, clipping: published.
PUBLISHED = {
    "quick": (15, 1_000, 32, 50, 0.05, 0.5, 0.995, 5.0),
    "mnist-cnn": (20, 1_000, 64, 50, 0.05, 1e-6, 0.995, 10.0),
    "fashion-cnn": (30, 4_000, 256, 200, 0.5, 1e-6, 0.995, 0.5),
    "fashion-lenet": (30, 4_000, 256, 200, 0.5, 1e-6, 0.995, 0.5),
    "cifar": (40, None, 256, 50, 0.001, 1e-2, 0.99995, 10.0),
    "celeba": (5, 10_000, 64, 50, 0.01, 1e-2, 0.9995, 10.0),
    "lfw": (49, None, 41, 50, 0.004, 1e-2, 0.9995, 5.5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str) -> None:
    epochs, examples, batch, forgotten, rate, l2, decay, clip = PUBLISHED[name]
    wanted = recipes.find(f"hessian-free-{name}")
    rule = Rule(lr=rate, momentum=0.0, weight_decay=l2, schedule="exponential", decay=decay, clip=clip)
    assert wanted.training == Training(epochs, batch, rule, record=True, fixed_order=True)
    assert (wanted.data.limit, wanted.data.validation) == (examples, 0.0)
    assert wanted.forget == parse("forget_sets", f"random:{forgotten}")
    cells = {cell.label: cell.run.subject.unlearning.method for cell in entries(wanted)}
    assert {"hessian_free", "additive", "released", "finetune"} < cells.keys()
    assert getattr(cells["retrain"], "recorded") is True  # noqa: B009
    for label in {"newton_step", "infinitesimal_jackknife"} & cells.keys():
        assert getattr(cells[label], "l2") == l2  # noqa: B009
    finetuned = getattr(cells["finetune"], "rule")  # noqa: B009
    assert finetuned == rule


@pytest.mark.parametrize(
    ("name", "scenarios"),
    [
        ("lr", 9), ("epochs", 9), ("batch", 8), ("l2", 8), ("deleted", 7),
    ],
)  # fmt: skip
def test_an_ablation_changes_the_quick_start_in_one_thing_and_holds_it_as_one_point(name: str, scenarios: int) -> None:
    quick, wanted = recipes.find("hessian-free-quick"), recipes.find(f"hessian-free-ablation-{name}")
    cells = entries(wanted)
    assert len({cell.scenario for cell in cells}) == scenarios == len(wanted.variations)
    plans_of = {(cell.run.subject.original, cell.run.subject.forget) for cell in cells}
    assert len(plans_of) == scenarios
    assert (quick.original(0), quick.forget) in plans_of
    methods = {cell.run.subject.unlearning for cell in entries(quick) if cell.label != "finetune"}
    published = {cell.run.subject.unlearning for cell in cells if cell.label not in ("retrain", "original")}
    assert published < methods


@pytest.mark.parametrize(("name", "layout"), [("celeba", "celeba"), ("lfw", "lfw"), ("cifar", "cifar10")])
def test_a_recipe_without_its_data_fails_with_the_words_of_the_source(
    name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    wanted = recipes.find(f"hessian-free-{name}")
    with pytest.raises(RequestError, match=f"{tmp_path}/{layout}"):
        split_data.load(wanted.data)


def comparison(**changes: object) -> Comparison:
    given = {
        "name": "own",
        "data": DataConfig(config.parse("data", "digits")),
        "model": config.parse("models", "logistic"),
        "training": Training(epochs=4, batch_size=64, rule=Rule(lr=0.1)),
        "forget": "random:20",
        "methods": ("finetune:epochs=1",),
    }
    return Comparison(**(given | changes))


def test_a_variation_changes_the_training_of_originals_and_references_or_the_forget_set() -> None:
    wanted = comparison(variations=("lr=0.5", "epochs=2,batch_size=32", "forget=random:30", "lr=0.5"), seeds=2)
    cells = entries(wanted)
    assert len(cells) == 3 * 2 * 3
    plan = wanted.training
    expected = {
        "lr=0.5": (dataclasses.replace(plan, rule=dataclasses.replace(plan.rule, lr=0.5)), "random:20"),
        "epochs=2,batch_size=32": (dataclasses.replace(plan, epochs=2, batch_size=32), "random:20"),
        "forget=random:30": (plan, "random:30"),
    }
    assert list(dict.fromkeys(cell.scenario for cell in cells)) == list(expected)
    for cell in cells:
        training, forget = expected[cell.scenario]
        original, reference = cell.run.subject.original, cell.run.reference
        assert original == TrainConfig(wanted.data, wanted.model, training, seed=cell.seed)
        assert reference.unlearning == retraining(training)
        assert cell.run.subject.forget == reference.forget == parse("forget_sets", forget)


def test_variations_and_prunings_make_a_scenario_together() -> None:
    wanted = comparison(
        model=config.parse("models", "small_cnn:width=4"),
        variations=("lr=0.2", "lr=0.4"),
        prunings=("dense", "magnitude:rate=0.5,rewind=1"),
    )
    pruned = "magnitude:rate=0.5,rewind=1"
    found = list(dict.fromkeys(cell.scenario for cell in entries(wanted)))
    assert found == ["lr=0.2", f"lr=0.2, {pruned}", "lr=0.4", f"lr=0.4, {pruned}"]


def test_runs_that_variations_share_are_the_same() -> None:
    one, other = ({run_id(run) for run in runs(wanted)} for wanted in (
        comparison(variations=("forget=random:20", "lr=0.1")), comparison()
    ))  # fmt: skip
    assert one == other


def runs(wanted: Comparison) -> list[object]:
    return [parent for cell in entries(wanted) for parent in parents(cell.run).values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a variation is text such as"),
        ("lr", "'lr' should be key=value"),
        ("ler=0.1", "variation ler=0.1: .*did you mean"),
        ("lr=fast", "variation lr=fast: .*expected float"),
        ("epochs=-1", "epochs must be .*at least 0"),
        ("forget=everything", "everything"),
        ("forget=3", "forget"),
    ],
)
def test_wrong_variations_are_refused_before_any_work(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        comparison(variations=(text,))
