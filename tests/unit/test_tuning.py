"""The search: what it may choose, what it minimises, and that it goes on where it was stopped."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from expunge.bench import tuning
from expunge.bench.grid import Comparison, entries
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.split_data import DataConfig, SplitData
from expunge.store.directory import Store
from expunge.store.run import run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning import presets

pytest.importorskip("optuna")


def comparison(*methods: str, **changes: object) -> Comparison:
    data = DataConfig(config.parse("data", "digits"), limit=200, test_limit=50, validation=0.2)
    plan = Training(epochs=3, rule=Rule(lr=0.1))
    wanted = Comparison("small", data, config.parse("models", "logistic"), plan, "random:10%", methods)
    return dataclasses.replace(wanted, **changes)


@pytest.mark.parametrize("name", [n for n in registry.plugins("methods") if n not in ("original", "retrain")])
def test_every_method_says_what_to_search(name: str) -> None:
    space = tuning.space(name)
    assert bool(space) == (name != "hessian_free"), "which has no number to choose"
    for low, high in space.values():
        presets.named(name, dict.fromkeys(space, low))
        presets.named(name, dict.fromkeys(space, high))
        assert 0 < low < high


def test_rates_are_searched_by_role_and_optimizer() -> None:
    assert tuning.space("random_label") == {"lr": (1e-3, 1e-1)}
    dual = tuning.space("random_label:forget.optimizer=adamw")
    assert dual["forget.lr"] == pytest.approx((1e-5, 1e-3))
    assert dual["retain.lr"] == (1e-3, 1e-1)


@pytest.mark.usefixtures("in_this_process")
def test_the_best_trial_is_kept_and_the_search_goes_on_where_it_was(tmp_path: Path) -> None:
    wanted = comparison("finetune:epochs=1", "gradient_ascent:epochs=1 as climbing", "original")
    first = tuning.tune(wanted, Store(tmp_path), trials=2)
    before = {run.id: run.record()["finished"] for run in Store(tmp_path).all()}
    again = tuning.tune(wanted, Store(tmp_path), trials=5)
    assert [search.method for search in again] == ["finetune", "climbing", "original"]
    for short, longer in zip(first, again, strict=True):
        assert longer.trials[:2] == short.trials
        assert len(longer.trials) == 5
        assert longer.best.gap == min(trial.gap for trial in longer.trials)
        assert longer.trials[0].text == "finetune:epochs=1" or longer.method != "finetune"
    assert len({trial.text for trial in again[0].trials}) == 5
    assert len({trial.text for trial in again[2].trials}) == 1, "there is nothing to search"
    assert all(Store(tmp_path).directory(name).record()["finished"] == stamp for name, stamp in before.items())
    found = tuning.to_data(wanted, again, 100)
    sources = [method["source"] for method in found["methods"]]
    assert all(source.startswith(("search, the best of 5", "the method's own defaults")) for source in sources)


@pytest.mark.usefixtures("in_this_process")
def test_the_test_set_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = comparison("finetune:epochs=1")
    honest = tuning.tune(wanted, Store(tmp_path / "a"), trials=2)
    real = split_data.load

    def shuffled(data: DataConfig) -> SplitData:
        found = real(data)
        wrong = dataclasses.replace(found.test, labels=found.test.labels.roll(1))
        return dataclasses.replace(found, test=wrong)

    monkeypatch.setattr(split_data, "load", shuffled)
    assert tuning.tune(wanted, Store(tmp_path / "b"), trials=2) == honest
    stored = [Store(tmp_path / name).all()[0].tensors("predictions")["test.labels"] for name in "ab"]
    assert not torch.equal(*stored), "the test labels did differ"


def test_the_search_uses_a_model_and_forget_set_of_its_own() -> None:
    wanted = comparison("finetune")
    searched = tuning._run_of(wanted, "finetune", 100)
    for cell in entries(dataclasses.replace(wanted, seeds=20)):
        assert searched.original != cell.run.subject.original
        assert searched.forget_seed != cell.run.subject.forget_seed
    assert run_id(searched) != run_id(tuning._run_of(wanted, None, 100))


@pytest.mark.usefixtures("in_this_process")
def test_failed_trials_lose_and_a_method_that_always_fails_is_named(tmp_path: Path) -> None:
    (search,) = tuning.tune(comparison("finetune:epochs=20,lr=1e30"), Store(tmp_path), trials=2)
    assert search.trials[0].gap is None
    assert search.best == search.trials[1]
    lost = dataclasses.replace(search, trials=search.trials[:1])
    with pytest.raises(RequestError, match="all trials of finetune failed"):
        _ = lost.best


@pytest.mark.usefixtures("in_this_process")
def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = comparison("finetune:epochs=1")
    with pytest.raises(RequestError, match="trials must be at least 1"):
        tuning.tune(wanted, Store(tmp_path), trials=0)
    nothing = dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, validation=0.0))
    with pytest.raises(RequestError, match="the search needs a validation set"):
        tuning.tune(nothing, Store(tmp_path), trials=1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RequestError, match=r"pip install 'expunge\[tune\]'"):
        tuning.tune(wanted, Store(tmp_path), trials=1)
