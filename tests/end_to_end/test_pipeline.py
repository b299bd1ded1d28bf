"""Runs: made once, shared, resumed, and never half written."""

import dataclasses
import importlib.util
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expunge.bench import local
from expunge.bench.grid import entries
from expunge.core import config, masks, registry
from expunge.core.errors import RequestError, RunError
from expunge.data import split_data
from expunge.data.forget_sets.class_ import ClassForget
from expunge.data.forget_sets.random import RandomForget
from expunge.runs._data import load_data
from expunge.runs._model import load_model
from expunge.runs.evaluate import EvaluateConfig, shadow_models, shadows_of
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.environment import PeakMemory
from expunge.store.execute import Session
from expunge.store.run import run_id
from expunge.training.fit import Training
from expunge.training.rules import Rule
from expunge.unlearning import presets
from expunge.unlearning.sequence import Step, divide
from tests import problems
from tests.command_line import beside, write_method
from tests.runs import comparison, digits, forgetting, original, reseal


def forget_of(wanted: UnlearnConfig) -> torch.Tensor:
    data = split_data.load(wanted.original.data)
    return divide(
        data.train, Step(wanted.forget, wanted.unlearning, forget_seed=wanted.forget_seed), data.dataset.num_classes
    )[0]


def numbers(store: Store) -> dict[str, dict[str, float]]:
    """The metrics of every evaluation, without those that measure time."""
    found = {}
    for run in store.all():
        if run.id.startswith("evaluate-"):
            metrics: dict[str, float] = run.record()["metrics"]
            found[run.id] = {key: value for key, value in metrics.items() if not key.startswith("run_time")}
    return found


def test_a_run_holds_everything_and_is_made_once(tmp_path: Path) -> None:
    store, steps = Store(tmp_path), []
    session = Session(on_step=lambda name, progress: steps.append(name))
    wanted = EvaluateConfig(forgetting(), forgetting("retrain:epochs=2"))
    run = execute.run(wanted, store, session)
    record = run.record()
    assert record["status"] == "finished"
    assert record["label"] == "finetune"
    assert {"unlearning_accuracy", "average_gap", "membership_svc.confidence", "run_time.unlearn"} <= set(
        record["metrics"]
    )
    subject = store.directory(record["parents"]["subject"])
    assert {path.name for path in subject.path.iterdir()} == {
        "config.json",
        "history.jsonl",
        "model.safetensors",
        "predictions.safetensors",
        "run.json",
    }
    assert {"torch", "expunge", "python"} <= set(subject.record()["versions"])
    history = [json.loads(line) for line in (subject.path / "history.jsonl").read_text().splitlines()]
    assert all(math.isfinite(entry["loss"]["retain"]) for entry in history)
    assert steps
    done, stamps = len(steps), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")}
    assert execute.run(wanted, store, session) == run
    assert len(steps) == done
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")}


def test_stored_predictions_are_those_of_the_stored_model(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), forgetting()
    run = execute.run(wanted, store, Session())
    model = load_model(wanted.original, run, Session())[0]
    data, stored = split_data.load(wanted.original.data), run.tensors("predictions")
    with torch.no_grad():
        logits = model(data.test.inputs / 255)
    torch.testing.assert_close(stored["test.logits"], logits, rtol=1e-5, atol=1e-5)
    assert set(stored["forgotten.ids"].tolist()) <= set(data.train.ids.tolist())
    assert not set(data.train.ids.tolist()) & set(data.validation.ids.tolist())


def test_seeds_are_separate() -> None:
    first = forgetting()
    assert not torch.equal(forget_of(first), forget_of(forgetting(forget_seed=1)))
    assert torch.equal(forget_of(first), forget_of(forgetting(seed=1)))
    assert torch.equal(forget_of(first), forget_of(forgetting(original=original(seed=5))))
    split = dataclasses.replace(original().data, seed=1)
    assert not torch.equal(split_data.load(split).train.ids, split_data.load(original().data).train.ids)


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [execute.run(forgetting("scrub:epochs=1"), Store(tmp_path / name), Session()) for name in "ab"]
    contents = [(run.path / "model.safetensors").read_bytes() for run in runs]
    assert contents[0] == contents[1]


def test_a_failed_run_keeps_its_reason_until_it_is_tried_again(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), forgetting("gradient_ascent:lr=1e30,epochs=60")
    with pytest.raises(RunError, match="loss became"):
        execute.run(wanted, store, Session())
    run = store.directory(run_id(wanted))
    assert run.record()["status"] == "failed"
    assert "learning rate was 1e+30" in str(run.record()["reason"])
    with pytest.raises(RunError, match=r"failed before: .*loss became"):
        execute.run(wanted, store, Session())
    before = run.record()["started"]
    with pytest.raises(RunError, match=r"^the forget loss became"):
        execute.run(wanted, store, Session(retry=True))
    assert run.record()["started"] != before


def test_other_training_images_are_noticed(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), forgetting()
    parent = execute.run(wanted.original, store, Session())
    reseal(parent.path, data="another")
    with pytest.raises(RequestError, match=r"not those that .* was trained on"):
        execute.run(wanted, store, Session())


def test_a_damaged_or_foreign_model_file_is_named(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), forgetting()
    parent = execute.run(wanted.original, store, Session())
    path = parent.path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"model.safetensors is not as its run wrote it .* run it again"):
        execute.run(wanted, store, Session())
    reseal(parent.path)
    with pytest.raises(RequestError, match=r"model.safetensors cannot be read .* run it again"):
        execute.run(wanted, store, Session())
    other = execute.run(original(model=config.parse("models", "logistic")), store, Session())
    path.write_bytes((other.path / "model.safetensors").read_bytes())
    with pytest.raises(RequestError, match=r"model.safetensors is not as its run wrote it"):
        execute.run(wanted, store, Session())
    reseal(parent.path)
    with pytest.raises(RequestError, match="another architecture"):
        execute.run(wanted, store, Session())


def test_a_comparison_shares_models_and_shows_failures(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = comparison("finetune:epochs=1", "gradient_ascent:lr=1e30,epochs=60")
    board = local.bench(wanted, store, jobs=2)
    manifest = json.loads((tmp_path / "bench.json").read_text())
    status = {entry["label"]: entry["status"] for entry in manifest["entries"]}
    assert status == {
        "retrain": "finished",
        "original": "finished",
        "finetune": "finished",
        "gradient_ascent": "failed",
    }
    assert "loss became" in next(e["reason"] for e in manifest["entries"] if e["label"] == "gradient_ascent")
    assert [run.id.split("-")[0] for run in store.all()].count("train") == 1
    assert len(board.states) == 1 + 4 + 4


KILLED = """
import sys
from pathlib import Path
from expunge.store.directory import Store
from expunge.bench import local
from tests.runs import comparison
if __name__ == "__main__":
    local.bench(comparison(), Store(Path(sys.argv[1])), jobs=2)
"""


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = Store(tmp_path / "whole")
    local.bench(comparison(), whole, jobs=2)
    script, broken = tmp_path / "killed.py", tmp_path / "broken"
    script.write_text(KILLED)
    for patience in (3, 4):
        process = subprocess.Popen([sys.executable, script, broken], env=beside())
        before = len(list(broken.glob("*/run.json")))
        deadline = time.monotonic() + 60
        while len(list(broken.glob("*/run.json"))) < before + patience - 2 and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.02)
        process.kill()
        process.wait()
    finished = {run.id: run.record()["finished"] for run in Store(broken).all()}
    assert finished
    local.bench(comparison(), Store(broken), jobs=2)
    assert numbers(Store(broken)) == numbers(whole)
    assert len(numbers(whole)) == 4
    assert all(Store(broken).directory(name).record()["finished"] == stamp for name, stamp in finished.items())
    assert not list(broken.glob(".draft-*"))


def test_a_lost_process_fails_its_run_and_no_other(tmp_path: Path) -> None:
    environment = write_method(tmp_path / "plug", "suicidal", "import os; os._exit(9)")
    script = tmp_path / "go.py"
    script.write_text(KILLED.replace("comparison()", "comparison('finetune:epochs=1', 'suicidal')"))
    subprocess.run([sys.executable, script, tmp_path / "runs"], env=environment, check=True)
    manifest = json.loads((tmp_path / "runs" / "bench.json").read_text())
    status = {entry["label"]: entry["status"] for entry in manifest["entries"]}
    assert status == {"retrain": "finished", "original": "finished", "finetune": "finished", "suicidal": "failed"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", 0, "seeds"),
        ("seeds", 10**9, "in 1..1000"),
        ("methods", (), "at least one method"),
        ("methods", ("nope",), "no method"),
        ("forget", "x", "forget set"),
    ],
)
def test_a_bad_comparison_is_refused_before_any_work(field: str, value: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        comparison(**{field: value})


def test_data_that_are_not_there_stop_a_comparison(tmp_path: Path) -> None:
    missing = dataclasses.replace(original().data, source=config.parse("data", "idx:/nowhere"))
    with pytest.raises(RequestError, match="there is no folder /nowhere"):
        local.bench(comparison(data=missing), Store(tmp_path), jobs=1)


def test_the_update_mask_is_kept_with_the_run(tmp_path: Path) -> None:
    run = execute.run(forgetting("salun:epochs=1,mask.fraction=0.25"), Store(tmp_path), Session())
    assert masks.load(run.path / "mask.safetensors").density() == pytest.approx(0.25, abs=1e-3)


def test_a_reference_that_forgot_something_else_is_refused() -> None:
    with pytest.raises(RequestError, match="forgotten other examples"):
        EvaluateConfig(forgetting(), forgetting("retrain", forget_seed=1))


def test_a_class_that_retraining_never_saw_is_never_predicted(tmp_path: Path) -> None:
    """The ends of the scale: UA and the attack are 100 after retraining without a class, near 0 before."""
    store, session = Store(tmp_path), Session()
    longer = original(training=Training(epochs=25, rule=Rule(lr=0.1)))
    without = forgetting("retrain:epochs=25", original=longer, forget=ClassForget((3,)))
    nothing = dataclasses.replace(without, unlearning=presets.named("original"))
    found = [execute.run(EvaluateConfig(each), store, session).record()["metrics"] for each in (without, nothing)]
    retrained, kept = found
    assert retrained["unlearning_accuracy"] == 100.0
    assert retrained["membership_svc.confidence"] > 95
    assert retrained["test_accuracy"] > 80
    assert kept["unlearning_accuracy"] < 5


def test_entries_pair_every_method_with_the_retrained_model_of_its_seed() -> None:
    cells = entries(comparison(seeds=2))
    assert [(cell.label, cell.seed) for cell in cells] == [
        (label, seed) for seed in (0, 1) for label in ("retrain", "original", "finetune", "scrub")
    ]
    for cell in cells:
        assert cell.run.reference.forget_seed == cell.run.subject.forget_seed == cell.seed
        assert cell.run.reference.original == cell.run.subject.original


def test_a_label_says_what_differs() -> None:
    methods = (
        "retrain:epochs=3",
        "finetune:epochs=1",
        "finetune:epochs=1,batch_size=128",  # the same with its default said
        "finetune:epochs=2",
        "original",
        "scrub",
        "SCRUB",
    )
    labels = [cell.label for cell in entries(comparison(methods=methods))]
    assert labels == ["retrain", "original", "retrain:epochs=3", "finetune:epochs=1", "finetune:epochs=2", "scrub"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda: forgetting("finetune"), r"must be a run of `expunge unlearn ... retrain`, this is one of finetune"),
        (
            lambda: forgetting("retrain", original=original(model=config.parse("models", "logistic"))),
            "another architecture",
        ),
    ],
)
def test_only_a_retrained_model_of_the_same_kind_is_a_reference(
    reference: Callable[[], UnlearnConfig], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        EvaluateConfig(forgetting(), reference())


@pytest.mark.parametrize(
    ("error", "place", "text"),
    [
        (MemoryError(), "expunge.runs.unlearn.unlearn_model", "finetune:epochs=1"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "expunge.runs.unlearn.unlearn_model",
            "finetune:epochs=1",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory: you tried"),
            "expunge.runs.unlearn.unlearn_model",
            "finetune:epochs=1",
        ),
        (MemoryError(), "expunge.methods._attacker.draws", "adversarial:epochs=1,pretrain_steps=1"),
    ],
    ids=["memory", "cuda", "cpu", "within a stage"],
)
def test_too_little_memory_is_no_property_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str, text: str
) -> None:
    store, wanted = Store(tmp_path), forgetting(text)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(RunError, match=r"out of memory: try a smaller batch_size"):
            execute.run(wanted, store, Session())
    assert [run.id.partition("-")[0] for run in store.all()] == ["train"]
    assert execute.run(wanted, store, Session()).finished


def test_an_evaluation_needs_neither_images_nor_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, wanted = Store(tmp_path), forgetting("finetune:epochs=1")
    execute.run(wanted, store, Session())
    monkeypatch.setattr(split_data, "load", lambda _: pytest.fail("the images were read"))
    monkeypatch.setattr("expunge.runs._model.build", lambda *_: pytest.fail("a model was built"))
    record = execute.run(EvaluateConfig(wanted), store, Session()).record()
    assert record["metrics"]["weight_distance.to_original"] > 0


def test_shadow_models_are_shared_runs_and_attack_the_model(tmp_path: Path) -> None:
    """Trained on few images for long, a model that was retrained shows which of them it has seen."""
    store, session = Store(tmp_path), Session()
    first = original(data=digits(100, 20), training=Training(40, 64, Rule(lr=0.2)))
    retrained = UnlearnConfig(first, RandomForget(share=0.3), retraining(first.training))
    wanted = EvaluateConfig(retrained, shadows=shadow_models(first, 8))
    found = execute.run(wanted, store, session).record()
    assert 0.5 < found["metrics"]["lira.auc"] <= 1
    assert {f"shadows.{number}" for number in range(8)} < set(found["parents"])
    before = {run.id for run in store.all()}
    others = EvaluateConfig(
        forgetting("finetune:epochs=1", original=first), retrained_of(first), shadows=shadow_models(first, 8)
    )
    compared = execute.run(others, store, session).record()
    assert len({run.id for run in store.all()} - before) == 3, "retraining, fine-tuning and their evaluation"
    assert math.isfinite(compared["metrics"]["change_correlation.forget_pearson"])


def retrained_of(first: TrainConfig) -> UnlearnConfig:
    return forgetting("retrain", original=first, unlearning=retraining(first.training))


def test_what_shadow_models_have_seen_is_what_they_were_trained_on(tmp_path: Path) -> None:
    """Against each run, read by itself: halves of the training set, and no validation image."""
    store, wanted = Store(tmp_path), EvaluateConfig(forgetting("original"), shadows=shadow_models(original(), 4))
    execute.run(wanted, store, Session())
    found = shadows_of([store.directory(run_id(shadow)) for shadow in wanted.shadows], Session())
    data = split_data.load(wanted.subject.original.data)
    assert torch.equal(found.ids, torch.cat([data.train.ids, data.validation.ids]))
    for row, shadow in enumerate(wanted.shadows):
        stored = store.directory(run_id(shadow)).tensors("predictions")
        learned = set(data.train.ids.tolist()) - set(forget_of(shadow).tolist())
        assert set(found.ids[found.inside[row]].tolist()) == learned
        assert len(learned) == -(-len(data.train) // 2)
        p = stored["validation.logits"].double().softmax(1).gather(1, stored["validation.labels"][:, None])[:, 0]
        torch.testing.assert_close(found.log_odds[row, len(data.train) :], torch.logit(p), rtol=1e-6, atol=1e-6)
    assert len({tuple(row.tolist()) for row in found.inside}) == 4, "each has a half of its own"


def test_shadow_models_of_a_recorded_training_follow_it() -> None:
    recorded = original(training=Training(2, rule=Rule(lr=0.1), record=True))
    for first in (original(), recorded):
        shadow = shadow_models(first, 4)[0]
        assert shadow.unlearning == retraining(first.training)
        assert shadow.unlearning.method.recorded == first.training.record


def test_shadow_models_do_not_depend_on_what_is_forgotten() -> None:
    few, many = shadow_models(original(), 4), shadow_models(original(), 8)
    assert many[:4] == few
    assert len({shadow.seed for shadow in many}) == len({shadow.forget_seed for shadow in many}) == 8
    assert shadow_models(original(), 0) == ()


@pytest.mark.parametrize("count", [-1, 1, 3])
def test_too_few_shadow_models_are_refused(count: int) -> None:
    for make in (lambda: shadow_models(original(), count), lambda: comparison(shadows=count)):
        with pytest.raises(RequestError, match="shadows must be 0 or at least 4"):
            make()


def test_a_comparison_gives_its_shadow_models_to_every_evaluation() -> None:
    found = entries(comparison(shadows=16, seeds=2))
    assert all(entry.run.shadows == shadow_models(entry.run.subject.original, 16) for entry in found)
    assert len({run_id(shadow) for entry in found for shadow in entry.run.shadows}) == 32, "16 for each seed"


def test_an_evaluation_names_its_metrics() -> None:
    data = config.to_data(EvaluateConfig(forgetting()))
    named = [metric["name"] for metric in data["metrics"]]
    assert named == list(registry.plugins("metrics"))


def test_data_are_read_once_in_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(split_data, "load", lambda wanted: calls.append(wanted) or wanted)
    session = Session()
    data = [dataclasses.replace(original().data, seed=seed) for seed in range(6)]
    for each in (data[0], data[0], data[1], data[0]):
        load_data(each, session)
    assert calls == data[:2]
    for each in data:
        load_data(each, session)
    load_data(data[0], session)  # the oldest are forgotten
    assert calls == [*data[:2], *data[2:], data[0]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start the count anew")
def test_peak_memory_is_that_of_the_run() -> None:
    before = PeakMemory(torch.device("cpu"))
    large = torch.ones(60_000_000)
    del large
    with_it, without = before.record(), PeakMemory(torch.device("cpu")).record()
    if with_it["peak_memory_since"] == "process":
        pytest.skip("this system cannot start the count anew")
    assert with_it["peak_memory_bytes"] - without["peak_memory_bytes"] > 100_000_000


def test_a_stage_is_made_once_for_all_forget_sets(tmp_path: Path) -> None:
    store, session = Store(tmp_path), Session()
    text = "adversarial:epochs=1,pretrain_steps=2"
    runs = [execute.run(forgetting(text, forget_seed=seed), store, session) for seed in (0, 1)]
    names = {run.record()["parents"]["attacker"] for run in runs}
    assert len(names) == 1
    stage = store.directory(names.pop())
    assert stage.record()["kind"] == "stage"
    assert stage.tensors("stage")
    seconds = stage.seconds()["precompute"]
    assert all(run.seconds()["precompute"] >= seconds for run in runs)
    assert set(runs[1].seconds()) == {"precompute", "unlearn"}
    alone = execute.run(forgetting(text, forget_seed=1), Store(tmp_path / "alone"), session)
    first, second = alone.tensors("model"), runs[1].tensors("model")
    assert problems.same(first, second), "found or made, the stage gives the same model"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    """As benchmarks/kills.py, which does it thirty times: in the first second of the workers, and amid a run."""
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).parents[2] / "benchmarks" / "kills.py")
    assert spec is not None
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)  # type: ignore[union-attr]
    recipe = tmp_path / "kills.json"
    recipe.write_text(json.dumps(kills.COMPARISON))
    assert kills.at_the_beginning(recipe, tmp_path / "begun", random.Random(0))
    (tmp_path / "killed").mkdir()
    assert kills.in_the_middle(recipe, tmp_path / "killed") == (True, True)


def test_a_worker_whose_parent_is_gone_before_it_begins_ends_at_once() -> None:
    code = "from expunge.bench import local; local._follow(2**22 + 1)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 1
