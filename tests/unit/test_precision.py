"""What `auto` chooses, that the choice is kept, and which networks gain."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from expunge.bench.grid import settled
from expunge.core import config
from expunge.core.errors import RequestError
from expunge.core.weights import frozen_copy
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import predict
from expunge.runs.train import TrainConfig
from expunge.training import precision
from expunge.training.precision import RequestedPrecision, chosen, fastest_layout, gains
from tests import problems
from tests.command_line import Terminal
from tests.unit.test_tuning import comparison

CPU = torch.device("cpu")


def enlarged(images: ImageSet) -> ImageSet:
    """The images at twice their size."""
    return images.mapped(lambda pixels, _: pixels.repeat(1, 1, 2, 2))


@pytest.fixture
def ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ratios that are timed next, on a CPU with the instructions and an empty cache folder; the last stays."""
    given = [0.6]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(precision, "timed_ratio", lambda: given.pop(0) if len(given) > 1 else given[0])
    precision.cpu_ratio.cache_clear()
    return given


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """No test leaves its ratio to the next."""
    precision.cpu_ratio.cache_clear()


@pytest.mark.parametrize(("ratio", "wanted"), [(0.6, "mixed"), (1.2, "float32")])
def test_auto_is_what_the_timing_says(ratio: float, wanted: str, ratios: list[float]) -> None:
    ratios[:] = [ratio]
    assert chosen("auto", CPU) == wanted
    assert [chosen(each, CPU) for each in ("float32", "bfloat16", "mixed")] == ["float32", "bfloat16", "mixed"]


def test_another_process_chooses_alike(ratios: list[float], tmp_path: Path) -> None:
    assert chosen("auto", CPU) == "mixed"
    ratios[:] = [1.3]
    precision.cpu_ratio.cache_clear()  # as in a process that has just begun
    assert chosen("auto", CPU) == "mixed"
    (kept,) = (tmp_path / "cache" / "expunge").iterdir()
    for damaged in ("", "[]", "-1.0", "NaN"):
        kept.write_text(damaged)
        precision.cpu_ratio.cache_clear()
        assert chosen("auto", CPU) == "float32", "it is timed again"


def test_a_home_that_cannot_be_written_to_is_no_error(ratios: list[float], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    assert chosen("auto", CPU) == "mixed"


def test_without_the_instructions_nothing_is_timed(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert chosen("auto", CPU) == "float32"


def test_timing_leaves_threads_and_random_numbers_alone(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def timed() -> float:
        torch.rand(3)
        seen.append(torch.get_num_threads())
        return 0.6

    monkeypatch.setattr(precision, "timed_ratio", timed)
    torch.set_num_threads(2)
    try:
        before = torch.get_rng_state()
        chosen("auto", CPU)
        assert torch.equal(torch.get_rng_state(), before)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(1)


def test_the_ratio_is_one_of_times() -> None:
    assert 0.05 < precision.timed_ratio(1) < 100


def test_which_networks_gain() -> None:
    large, small = problems.architecture("small_cnn:width=32"), problems.architecture("small_cnn:width=4")
    assert (gains(large), gains(small), gains(nn.Linear(300, 300))) == (True, False, False)
    assert gains(frozen_copy(large)), "a teacher, whose weights are not trained"


@pytest.mark.parametrize(("kind", "half"), [("float32", False), ("mixed", True), ("bfloat16", True)])
def test_mixed_is_bfloat16_where_the_network_gains(kind: RequestedPrecision, half: bool) -> None:
    for text, gaining in (("small_cnn:width=32", True), ("small_cnn:width=4", False)):
        model, seen = problems.architecture(text, seed=0), list[torch.dtype]()
        step = problems.context(precision=chosen(kind, CPU)).stepper(model, problems.Rule(), 1)

        def loss(model: nn.Module = model, seen: list[torch.dtype] = seen) -> torch.Tensor:
            seen.append((out := model(torch.ones(2, 3, 32, 32))).dtype)
            return out.float().sum()

        step(retain=loss)
        assert (seen == [torch.bfloat16]) == (half and (gaining or kind == "bfloat16"))


def test_a_run_stores_the_choice(terminal: Terminal, tmp_path: Path, ratios: list[float]) -> None:
    short = ("--limit", 50, "--test-limit", 20, "--epochs", 1, "--model", "logistic", "--runs", tmp_path)
    run = terminal.folder("train", *short)
    assert json.loads((run / "config.json").read_text())["precision"] == "mixed"
    assert terminal.folder("train", *short, "--precision", "mixed") == run
    ratios[:] = [1.2]
    next((tmp_path / "cache" / "expunge").iterdir()).unlink()
    precision.cpu_ratio.cache_clear()
    assert terminal.folder("train", *short) == terminal.folder("train", *short, "--precision", "float32") != run


def test_a_comparison_is_settled_before_its_runs(ratios: list[float]) -> None:
    wanted = comparison("finetune")
    assert settled(wanted, CPU).original(0).precision == "mixed"
    assert settled(comparison("finetune", precision="bfloat16"), CPU).precision == "bfloat16"


def test_auto_is_no_precision_of_a_run() -> None:
    data = config.to_data(comparison("finetune").original(0))
    with pytest.raises(RequestError, match="precision"):
        config.from_data(TrainConfig, {**data, "precision": "auto"})  # type: ignore[dict-item]


def test_predictions_do_not_depend_on_the_layout_of_the_weights() -> None:
    model, images = problems.architecture("small_cnn:width=32", (1, 8, 8), 3, seed=0).eval(), problems.images(9)
    images = enlarged(images)
    before = predict(model, images, CPU).logits
    assert next(model.parameters()).is_contiguous(), "the model of the user is as it was"
    assert torch.equal(predict(fastest_layout(model), images, CPU).logits, before)


@pytest.mark.parametrize("method", ["scrub", "bad_teacher", "boundary_shrink"])
def test_teachers_are_in_the_layout_of_the_student(method: str) -> None:
    model, seen = problems.architecture("small_cnn:width=32", (1, 8, 8), 3, seed=0), set[tuple[bool, bool]]()

    def note(module: nn.Module, _: object) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        seen.add((weight.requires_grad, weight.is_contiguous(memory_format=torch.channels_last)))

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    convolutions[-1].register_forward_pre_hook(note)
    given = problems.data()
    data = UnlearningData(enlarged(given.forget), enlarged(given.retain), None, 3)
    problems.unlearned(f"{method}:epochs=1", model, data)
    assert {(True, True), (False, True)} <= seen
    assert (False, False) not in seen
