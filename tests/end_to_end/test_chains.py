"""Unlearning from an unlearned model: what was forgotten before is never retained again."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

import expunge
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data.forget_sets.class_ import ClassForget
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.forget_sets.random import RandomForget
from expunge.runs._data import load_data
from expunge.runs._model import load_model
from expunge.runs.evaluate import EvaluateConfig, subject_of
from expunge.runs.prune import PruneConfig
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig, chain, forgotten_sets, retrained
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.execute import Session
from expunge.store.run import expanded, open_config, run_id, with_parents
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning import presets
from expunge.unlearning.sequence import Sequence
from tests import problems, runs
from tests.command_line import Terminal
from tests.runs import gap, reseal

FIRST, SECOND = ClassForget((3,)), RandomForget(count=9)
TEN = RandomForget(share=0.1)


SMALL = "small_cnn:width=4,blocks=2"


def trained(model: str = SMALL, **training: object) -> TrainConfig:
    return runs.trained(model, Training(2, 32, **training), data=runs.digits(100, 40))


def step(model: object, forget: object, text: str = "finetune:epochs=1", **options: object) -> UnlearnConfig:
    return UnlearnConfig(model, forget, presets.named(text, options))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("chains"))


def needs_record(name: str) -> bool:
    return registry.find("methods", name).extras.get("trajectory", False)


QUICK = {"epochs": 1, "pretrain_steps": 1, "samples": 20, "l2": 0.01, "repeatable": True}


def options_of(name: str) -> dict[str, object]:
    names = config.field_names(registry.find("methods", name).config)
    return {key: value for key, value in QUICK.items() if key in names}


@pytest.mark.parametrize("name", registry.plugins("methods"))
def test_two_deletions_in_a_row_with_every_method(name: str, store: Store) -> None:
    given = options_of(name) | ({"backbone_is_public": True, "budget": 1e6} if name == "certified_removal" else {})
    plan = {"record": True, "rule": Rule(momentum=0.0)} if needs_record(name) else {}
    start = trained("logistic" if plan or name == "certified_removal" else SMALL, **plan)
    first = step(start, FIRST, name, **given)
    second = step(first, SECOND, name, **given)
    directory = execute.run(second, store, Session())
    stored = directory.tensors("predictions")
    labels = dict(zip(stored["train.ids"].tolist(), stored["train.labels"].tolist(), strict=True))
    before = {example for example, label in labels.items() if label == 3}
    chosen = set(stored["step.ids"].tolist())
    assert len(chosen) == 9
    assert not chosen & before, "what was forgotten before is not chosen again"
    assert set(stored["forgotten.ids"].tolist()) == chosen | before
    found, reference = (
        execute.run(evaluation, store, Session()).record()["metrics"]
        for evaluation in (EvaluateConfig(second, retrained(second)), EvaluateConfig(retrained(second)))
    )
    assert found["average_gap"] == pytest.approx(gap(found, reference))


@pytest.mark.parametrize("text", ["hessian_free", "hessian_free:variant=additive", "hessian_free:vectors=precompute"])
def test_deleting_in_two_requests_is_deleting_at_once(text: str, store: Store) -> None:
    """From the command line's runs as from Python: the change of the union, by replay or by adding up vectors."""
    text = text.replace("vectors", "variant=additive,vectors")
    start = trained("logistic", record=True, rule=Rule(lr=0.05, momentum=0.0))
    second = step(step(start, FIRST, text), SECOND, text)
    stored = execute.run(second, store, Session())
    union = ListedForget(tuple(stored.tensors("predictions")["forgotten.ids"].tolist()))
    once = execute.run(step(start, union, text), store, Session())
    found, expected, before = (run.weights() for run in (stored, once, execute.run(start, store, Session())))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-6)
        assert not torch.allclose(weight, before[name], rtol=0, atol=1e-4)


def test_the_reference_of_a_recorded_training_follows_its_batches_without_the_union(store: Store) -> None:
    start = trained("logistic", record=True, rule=Rule(lr=0.05, momentum=0.0))
    reference = retrained(step(step(start, FIRST, "hessian_free"), SECOND, "hessian_free"))
    directory = execute.run(reference, store, Session())
    assert directory.record()["parents"]["trajectory"] == run_id(start)  # type: ignore[index]
    union = ListedForget(tuple(directory.tensors("predictions")["forgotten.ids"].tolist()))
    once = execute.run(step(start, union, "retrain:recorded=true"), store, Session())
    assert all(torch.equal(directory.weights()[name], weight) for name, weight in once.weights().items())


def test_retraining_at_the_end_of_a_chain_never_sees_what_was_forgotten(store: Store) -> None:
    """The same bits as retraining without the union, whatever was done in between."""
    wanted = step(step(step(trained(), FIRST), SECOND, "scrub:epochs=1"), TEN, "retrain:epochs=2")
    directory = execute.run(wanted, store, Session())
    union = tuple(directory.tensors("predictions")["forgotten.ids"].tolist())
    at_once = execute.run(step(trained(), ListedForget(union), "retrain:epochs=2"), store, Session())
    found, expected = directory.weights(), at_once.weights()
    assert problems.same(found, expected)


def test_the_reference_is_the_same_for_every_method(store: Store) -> None:
    chains = [step(step(trained(), FIRST, text), SECOND, text) for text in ("finetune:epochs=1", "gradient_ascent")]
    assert len({run_id(retrained(each)) for each in chains}) == 1
    assert forgotten_sets(retrained(chains[0])) == forgotten_sets(chains[0]) == ((FIRST, 0), (SECOND, 0))
    with pytest.raises(RequestError, match="has forgotten other examples"):
        EvaluateConfig(chains[0], retrained(step(trained(), SECOND)))


def test_pruning_an_unlearned_model_does_not_train_on_what_it_forgot(store: Store) -> None:
    first = step(trained(), ClassForget((3, 4, 5, 6)))
    pruned = PruneConfig(first, config.parse("pruning", "magnitude:rate=0.5"))
    directory = execute.run(pruned, store, Session())
    forgotten = directory.tensors("predictions")["forgotten.ids"]
    assert torch.equal(forgotten, execute.run(first, store, Session()).tensors("predictions")["forgotten.ids"])
    assert open_config(directory) == pruned
    second = execute.run(step(pruned, SECOND), store, Session()).tensors("predictions")
    assert len(second["forgotten.ids"]) == len(forgotten) + 9
    last = directory.path / "history.jsonl"
    steps = len(last.read_text().splitlines())
    assert len(second["train.ids"]) == 90
    assert steps == 4, "two epochs of 54 images in batches of 32; all 90 would take six steps"
    assert steps == 2 * -(-(len(second["train.ids"]) - len(forgotten)) // 32)


def test_a_chain_from_the_command_line(tmp_path: Path, terminal: Terminal) -> None:
    options = ["--limit", 100, "--test-limit", 40, "--model", "logistic", "--epochs", 2]
    run = terminal.folder("train", *options, "--runs", tmp_path)
    for forget in ("class:3", "random:9"):
        run = terminal.folder("unlearn", "--run", run, "--forget", forget, "finetune", "--epochs", 1)
    reference = terminal.folder("unlearn", "--run", run.parent / parent(run), "--forget", "random:9", "retrain")
    found = terminal.json("evaluate", "--run", run, "--reference", reference)["metrics"]
    assert found["average_gap"] == pytest.approx(gap(found, terminal.json("evaluate", "--run", reference)["metrics"]))
    pruned = terminal.folder("prune", "--run", run, "magnitude", "--rate", 0.5, "--linear")
    assert json.loads((pruned / "run.json").read_text())["parents"]["original"] == run.name


def parent(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["parents"]["original"]


def test_a_chain_of_200_steps_costs_less_than_a_second(tmp_path: Path) -> None:
    """Seconds of this process for names, parents, writing and reading of configurations; not the work."""
    begin = time.process_time()
    chain: object = trained()
    for number in range(200):
        chain = dataclasses.replace(step(trained(), ListedForget((number,))), original=chain)
    before = with_parents([chain])
    assert len(before) == 201
    store = Store(tmp_path)
    for name, wanted in before.items():
        store.directory(name).path.mkdir()
        (store.directory(name).path / "config.json").write_text(json.dumps(config.run_to_data(wanted)))
        reseal(store.directory(name).path)
    sizes = [path.stat().st_size for path in tmp_path.glob("*/config.json")]
    assert max(sizes) < 2 * min(sizes) + 2000, "each configuration is stored once"
    assert run_id(open_config(store.directory(run_id(chain)))) == run_id(chain)
    assert len(forgotten_sets(chain)) == 200
    assert time.process_time() - begin < 1.0


def test_a_configuration_that_refers_to_itself_is_an_error(tmp_path: Path) -> None:
    wanted = step(trained(), FIRST)
    directory = Store(tmp_path).directory(run_id(wanted))
    data = config.run_to_data(wanted) | {"original": {"run": directory.id, "digest": config.run_digest(wanted)}}
    directory.path.mkdir()
    (directory.path / "config.json").write_text(json.dumps(data))
    reseal(directory.path)
    with pytest.raises(RequestError, match="refers to itself"):
        open_config(directory)
    assert expanded(directory)["kind"] == "unlearn"


def test_a_sequence_in_memory_gives_the_models_of_its_runs(store: Store) -> None:
    wanted = Sequence(("class:3", "finetune:epochs=1"), ("random:9", "scrub:epochs=1", "class:5"))
    start = trained()
    runs_made = [execute.run(each, store, Session()) for each in chain(start, wanted)]
    data = load_data(start.data, Session())
    model = load_model(start, execute.run(start, store, Session()), Session())[0]
    found = expunge.unlearn_sequence(model, data.train, wanted, validation=data.validation)
    for result, run in zip(found, runs_made, strict=True):
        stored = run.tensors("predictions")
        assert sorted(result.notes["forgotten"]) == stored["step.ids"].tolist()  # type: ignore[call-overload]
        assert problems.same(result.model, run.tensors("model"))


def test_what_is_withheld_is_neither_forgotten_nor_retained(store: Store) -> None:
    """Changing its images changes nothing; evaluation counts it in neither set."""
    start = trained("logistic")
    wanted = dataclasses.replace(
        step(start, FIRST, "finetune:epochs=2"), withhold=config.parse("forget_sets", "class:5")
    )
    directory = execute.run(wanted, store, Session())
    stored = directory.tensors("predictions")
    labels = dict(zip(stored["train.ids"].tolist(), stored["train.labels"].tolist(), strict=True))
    assert {labels[each] for each in stored["withheld.ids"].tolist()} == {5}
    parts = subject_of(directory).splits
    assert 5 not in parts["retain"].labels.tolist() + parts["forget"].labels.tolist()
    assert len(parts["retain"]) + len(parts["forget"]) + len(stored["withheld.ids"]) == len(labels)
    both = step(start, config.parse("forget_sets", "class:3+5"), "finetune:epochs=2")
    assert problems.same(directory.weights(), execute.run(both, store, Session()).weights()), "fine-tuning sees neither"
    later = execute.run(step(wanted, config.parse("forget_sets", "class:5")), store, Session()).tensors("predictions")
    assert later["step.ids"].tolist() == stored["withheld.ids"].tolist()
    assert "withheld.ids" not in later


def test_orders_that_forget_the_same_share_their_reference(store: Store) -> None:
    third = config.parse("forget_sets", "class:5")
    one, other = (step(step(trained("logistic"), *pair[:1]), *pair[1:]) for pair in ((FIRST, third), (third, FIRST)))
    assert run_id(retrained(one)) == run_id(retrained(other))
    drawn = [step(step(trained("logistic"), *pair[:1]), *pair[1:]) for pair in ((FIRST, SECOND), (SECOND, FIRST))]
    assert run_id(retrained(drawn[0])) != run_id(retrained(drawn[1])), "what is drawn depends on what was left"
    for each in (one, other, *drawn):
        stored, reference = (execute.run(run, store, Session()) for run in (each, retrained(each)))
        key = ("predictions", "forgotten.ids")
        assert torch.equal(stored.tensor(*key), reference.tensor(*key))  # type: ignore[arg-type]


def test_a_sequence_says_what_is_wrong_with_a_step() -> None:
    with pytest.raises(RequestError, match="at least one step"):
        Sequence()
    with pytest.raises(RequestError, match="did you mean class"):
        Sequence(("clas:3", "scrub"))
    with pytest.raises(RequestError, match="did you mean scrub"):
        Sequence(("class:3", "scrubb"))
