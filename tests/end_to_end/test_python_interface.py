"""The Python interface on a user's own model and data."""

import contextlib
import copy
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import expunge
from expunge.api import unlearn as unlearn_module
from expunge.core.errors import RequestError, RunError
from tests import problems
from tests.runs import gap


class OwnNetwork(nn.Module):
    """A user's network: batch normalisation, nothing of expunge."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).flatten(1))


class OwnDataset(Dataset):
    """A user's data set of (image, label), as torch's own are."""

    def __init__(self, count: int, seed: int) -> None:
        made = problems.images(count, seed=seed)
        self.images, self.labels = made.inputs.float() / 255, made.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = OwnNetwork()
    data = OwnDataset(60, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.images), data.labels).backward()
        optimizer.step()
    return model.eval()


def losses(model: nn.Module, data: OwnDataset) -> torch.Tensor:
    with torch.no_grad():
        return nn.functional.cross_entropy(model.eval()(data.images), data.labels, reduction="none")


def accuracy(model: nn.Module, data: OwnDataset) -> float:
    """In percent."""
    with torch.no_grad():
        return 100 * float((model.eval()(data.images).argmax(1) == data.labels).double().mean())


def test_the_example_of_the_readme() -> None:
    model, forget, retain, test = trained(), OwnDataset(10, 1), OwnDataset(50, 2), OwnDataset(30, 3)
    before = problems.state(model)

    result = expunge.unlearn(model, forget=forget, retain=retain, method="scrub", epochs=2, seed=0)
    retrained = expunge.unlearn(model, forget=forget, retain=retain, method="retrain", epochs=3).model
    audit = expunge.evaluate(result.model, forget=forget, retain=retain, test=test, reference=retrained)

    assert problems.same(model, before)
    assert any(not torch.equal(value, before[name]) for name, value in result.model.state_dict().items())
    assert audit["unlearning_accuracy"] == pytest.approx(100 - accuracy(result.model, forget))
    assert audit["test_accuracy"] == pytest.approx(accuracy(result.model, test))
    alone = expunge.evaluate(retrained, forget=forget, retain=retain, test=test)
    assert audit["average_gap"] == pytest.approx(gap(audit, alone))
    assert "average_gap" in audit.table()
    assert result.seconds["unlearn"] > 0
    assert set(result.history[-1]) == {"step", "lr", "loss"}
    with pytest.raises(KeyError, match="did you mean test_accuracy"):
        audit["test_acuracy"]


def test_changes_are_measured_from_the_original() -> None:
    model, sets = trained(), {"forget": OwnDataset(10, 1), "retain": OwnDataset(50, 2)}
    moved = expunge.unlearn(model, **sets, method="finetune", epochs=1).model
    retrained = expunge.unlearn(model, **sets, method="retrain", epochs=3).model
    given = {**sets, "test": OwnDataset(30, 3), "metrics": ["change_correlation", "unlearning_attack"]}
    audit = expunge.evaluate(moved, **given, reference=retrained, original=model)
    changes = [losses(changed, given["test"]) - losses(model, given["test"]) for changed in (moved, retrained)]
    expected = float(torch.corrcoef(torch.stack(changes))[0, 1])
    assert audit["change_correlation.test_pearson"] == pytest.approx(expected, abs=1e-4)
    assert expunge.evaluate(model, **given, original=model)["unlearning_attack.auc"] == 0.5, "nothing has moved"
    itself = expunge.evaluate(retrained, **given, reference=retrained, original=model)
    assert itself["change_correlation.forget_spearman"] == pytest.approx(1)
    assert not len(expunge.evaluate(moved, **given))


def test_in_place_changes_the_model_given() -> None:
    model = trained()
    result = expunge.unlearn(
        model, forget=OwnDataset(5, 1), retain=OwnDataset(20, 2), method="FT", epochs=1, in_place=True
    )
    assert result.model is model


def test_arrays_tensors_and_datasets_give_the_same_model() -> None:
    model = trained()
    own = [OwnDataset(6, 1), OwnDataset(20, 2)]
    forms = [
        own,
        [TensorDataset(data.images, data.labels) for data in own],
        [(data.images, data.labels) for data in own],
        [(data.images.numpy(), data.labels.numpy()) for data in own],
    ]
    states = [
        expunge.unlearn(model, forget=forget, retain=retain, method="random_label", epochs=1).model.state_dict()
        for forget, retain in forms
    ]
    for state in states[1:]:
        assert problems.same(state, states[0])


def test_pictures_and_bytes_become_unit_floats() -> None:
    from PIL import Image

    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    pictures = [(Image.fromarray(array), label) for label, array in enumerate(grey)]
    from expunge.api.inputs import as_image_set

    images = as_image_set(pictures)
    assert images.shape == (1, 4, 4)
    assert torch.equal(next(images.batches(2)).inputs[:, 0], torch.from_numpy(grey).float() / 255)
    colour = as_image_set([(np.zeros((4, 5, 3), np.uint8), 0)])
    assert colour.shape == (3, 4, 5)


def test_hyperparameters_reach_the_rule_the_roles_and_the_mask() -> None:
    model = trained()
    sets = {"forget": OwnDataset(6, 1), "retain": OwnDataset(20, 2)}
    result = expunge.unlearn(model, **sets, method="finetune", epochs=1, lr=0.25)
    assert result.history[0]["lr"] == {"retain": 0.25}
    frozen = expunge.unlearn(model, **sets, method="salun", epochs=1, **{"mask.fraction": 0.0})
    assert problems.same(problems.weights(frozen.model), problems.weights(model))
    assert frozen.seconds["precompute"] > 0
    rule = expunge.PerRole(forget=expunge.Rule(lr=0.1), retain=expunge.Rule(lr=0.2))
    from expunge.methods.scrub import ScrubConfig

    both = expunge.unlearn(model, **sets, method=ScrubConfig(epochs=1, rule=rule))
    assert both.history[0]["lr"] == {"forget": 0.1}
    assert both.history[-1]["lr"] == {"retain": 0.2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "scrubb"}, "did you mean scrub"),
        ({"method": "scrub", "epoch": 3}, "did you mean epochs"),
        (
            {"forget": (torch.zeros(2, 3, 4, 4), torch.zeros(2).long())},
            r"forget images have shape \(3, 4, 4\), other images",
        ),
        ({"retain": (torch.zeros(2, 3, 4, 4), torch.zeros(2).long())}, "does not accept images of shape"),
        ({"forget": (torch.zeros(2, 1, 4, 4), torch.tensor([0, 3]))}, r"forget labels must be in 0\.\.2"),
        ({"forget": (torch.zeros(0, 1, 4, 4), torch.zeros(0).long())}, "no examples"),
        ({"forget": (torch.zeros(2, 1, 4, 4), torch.zeros(3).long())}, "2 images and labels of shape"),
    ],
)
def test_bad_requests_say_the_cure(change: dict[str, object], message: str) -> None:
    wanted = {"forget": OwnDataset(5, 1), "retain": OwnDataset(20, 2), "method": "finetune"} | change
    with pytest.raises(RequestError, match=message):
        expunge.unlearn(trained(), **wanted)


def test_a_loss_that_explodes_is_told() -> None:
    with pytest.raises(RunError, match=r"loss became (nan|inf|-inf) at step .* try a smaller lr"):
        expunge.unlearn(
            trained(), forget=OwnDataset(5, 1), retain=OwnDataset(20, 2), method="gradient_ascent", epochs=200, lr=1e30
        )


def test_importing_expunge_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, expunge; print([m for m in ('torch', 'torchvision', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_give_what_one_after_the_other_gives_and_leave_the_global_generators_alone() -> None:
    """Dropout draws from torch's global generator, which all threads share."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    data = {"forget": OwnDataset(20, 2), "retain": OwnDataset(60, 1)}

    def unlearned(seed: int) -> dict[str, torch.Tensor]:
        return expunge.unlearn(model, **data, method="finetune", epochs=4, batch_size=8, seed=seed).model.state_dict()

    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one_by_one = [unlearned(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(unlearned, range(4)))
    assert all(problems.same(first, second) for first, second in zip(one_by_one, together, strict=True))
    assert not problems.same(one_by_one[0], one_by_one[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


DATA = {"forget": OwnDataset(12, 2), "retain": OwnDataset(36, 1)}
QUICK = {"method": "finetune", "epochs": 1, "batch_size": 12}


@contextlib.contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("around", [double_by_default, torch.no_grad, torch.inference_mode])
def test_the_state_of_torch_makes_no_difference_and_is_kept(around: Callable[[], AbstractContextManager[None]]) -> None:
    model, test = trained(), OwnDataset(12, 3)
    expected = expunge.unlearn(model, **DATA, **QUICK).model
    audit = expunge.evaluate(expected, **DATA, test=test)
    with around():
        state = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = expunge.unlearn(model, **DATA, **QUICK).model
        again = expunge.evaluate(found, **DATA, test=test)
        assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == state
    assert problems.same(found, expected)
    assert dict(again) == pytest.approx(dict(audit), nan_ok=True)
    with torch.inference_mode():
        model = copy.deepcopy(model)
        images = DATA["forget"].images.clone(), DATA["forget"].labels.clone()
        found = expunge.unlearn(model, forget=images, retain=DATA["retain"], **QUICK).model
    assert problems.same(found, expected), "models and images made under inference_mode too"


class Shifted(nn.Module):
    """A linear model that makes a tensor of the default type."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3, dtype=torch.float32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)) + torch.linspace(0, 1, 3)


@pytest.mark.parametrize("around", [double_by_default, torch.no_grad, torch.inference_mode])
def test_the_state_of_torch_makes_no_difference_to_a_recorded_training(
    around: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    def deleted(folder: Path) -> torch.Tensor:
        torch.manual_seed(0)
        images = torch.rand(30, 1, 4, 4, dtype=torch.float32), torch.arange(30) % 3
        recorded = expunge.train_recorded(Shifted(), images, epochs=1, batch_size=10, lr=0.05, momentum=0.0)
        with recorded.deletions(recorded.precompute(folder), rebase_every=1) as online:
            online.delete([1])
            return online.delete([2])

    expected = deleted(tmp_path / "expected")
    with around():
        state = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = deleted(tmp_path / "found")
        assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == state
    assert torch.equal(found, expected)


@pytest.mark.parametrize("model", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [torch.uint8, torch.float32, torch.float64])
def test_a_recorded_training_is_in_the_precision_of_the_model(model: torch.dtype, images: torch.dtype) -> None:
    given = torch.randint(0, 2, (12, 1, 4, 4)).to(images), torch.arange(12) % 3
    found = expunge.train_recorded(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(model), given, epochs=1, batch_size=6
    )
    assert next(found.model.parameters()).dtype == model


def test_a_double_model_stays_double() -> None:
    found = expunge.unlearn(trained(), **DATA, **QUICK).model
    assert next(found.parameters()).dtype == torch.float32
    images = [(part.images.double(), part.labels) for part in DATA.values()]
    found = expunge.unlearn(trained().double(), forget=images[0], retain=images[1], **QUICK).model
    assert next(found.parameters()).dtype == torch.float64


class Wrapped(nn.Module):
    """A model whose output is not a tensor."""

    def __init__(self, wrap: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.network, self.wrap = OwnNetwork(), wrap

    def forward(self, images: torch.Tensor) -> object:
        return self.wrap(self.network(images))


@pytest.mark.parametrize("wrap", [lambda x: (x, x), lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x)])
def test_outputs_that_are_no_tensor_are_refused_with_the_cure(wrap: Callable[[torch.Tensor], object]) -> None:
    for call in (
        lambda: expunge.unlearn(Wrapped(wrap), **DATA, **QUICK),
        lambda: expunge.evaluate(Wrapped(wrap), **DATA, test=OwnDataset(6, 3)),
        lambda: expunge.train_recorded(Wrapped(wrap), OwnDataset(6, 3), epochs=1, batch_size=3),
    ):
        with pytest.raises(RequestError, match="not a tensor of logits: wrap it in a module"):
            call()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_scripted_model() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(RequestError, match="give the module that it was made from"):
        expunge.unlearn(scripted, **DATA, **QUICK)
    test = OwnDataset(60, 3)
    found = expunge.evaluate(scripted, **DATA, test=test)["test_accuracy"]
    assert found == pytest.approx(accuracy(scripted, test))


class Writes(OwnNetwork):
    """A model that changes the tensor it is given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.mul_(0.5).add_(0.1))


def test_a_model_that_changes_its_input_does_not_change_the_images() -> None:
    before = {name: part.images.clone() for name, part in DATA.items()}
    pairs = {name: (part.images, part.labels) for name, part in DATA.items()}
    model = expunge.unlearn(Writes(), **pairs, **QUICK).model
    expunge.evaluate(model, **pairs, test=pairs["forget"])
    assert all(torch.equal(part.images, before[name]) for name, part in DATA.items())


def test_in_place_restores_the_weights_after_an_error() -> None:
    model = trained()
    before = problems.state(model)
    with pytest.raises(RunError, match=r"became (nan|inf)"):
        expunge.unlearn(model, **DATA, method="gradient_ascent", lr=1e20, epochs=20, in_place=True)
    assert problems.same(model, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "seed must be an integer, got None"),
        ({"precision": "foo"}, "precision must be one of auto, float32, bfloat16"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99'"),
        ({"forget": (torch.zeros(2, 1, 4, 4), torch.tensor([0.0, 3.7]))}, "labels must be class numbers, got 3.7"),
        ({"forget": DataLoader(DATA["forget"])}, "give its data set, loader.dataset"),
        ({"forget": [1, 2]}, r"must be \(image, label\), got a int"),
        ({"forget": 3}, "got a int"),
    ],
)
def test_what_was_accepted_silently_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        expunge.unlearn(trained(), **(DATA | QUICK | change))


def test_forget_and_retain_set_must_not_overlap() -> None:
    images = problems.images(20)
    parts = {"forget": images.select(torch.arange(5)), "retain": images.select(torch.arange(4, 20))}
    for call in (
        lambda: expunge.unlearn(problems.model(), **parts, **QUICK),
        lambda: expunge.evaluate(problems.model(), **parts, test=images),
    ):
        with pytest.raises(RequestError, match="1 examples are in the forget and in the retain set, the id 4 among"):
            call()


def test_items_may_have_more_than_image_and_label() -> None:
    class Indexed(OwnDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:  # type: ignore[override]
            return *super().__getitem__(index), index

    found = expunge.unlearn(trained(), forget=Indexed(12, 2), retain=Indexed(36, 1), **QUICK).model
    assert problems.same(found, expunge.unlearn(trained(), **DATA, **QUICK).model)


def test_a_metric_that_cannot_apply_is_left_out_with_its_reason_and_the_reference_is_scored_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, test = trained(), OwnDataset(12, 3)
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    audit = expunge.evaluate(model, **DATA, test=test, reference=other)
    assert "weight_distance" in audit.left_out
    assert audit["unlearning_accuracy"] == pytest.approx(100 - accuracy(model, DATA["forget"]))
    assert "average_gap" in audit
    scored: list[nn.Module] = []
    real = unlearn_module._subject

    def spy(network: nn.Module, *rest: object) -> object:
        scored.append(network)
        return real(network, *rest)

    monkeypatch.setattr(unlearn_module, "_subject", spy)
    again = expunge.evaluate(model, **DATA, test=test, reference=audit.reference)
    assert scored == [model]
    assert dict(again) == pytest.approx(dict(audit), nan_ok=True)


def test_a_model_that_was_left_as_it_is_is_noted() -> None:
    assert expunge.unlearn(trained(), **DATA, method="finetune", epochs=0).notes["unchanged"] is True
    assert "unchanged" not in expunge.unlearn(trained(), **DATA, **QUICK).notes


def test_the_version_is_that_of_the_package() -> None:
    assert expunge.__version__ == importlib.metadata.version("expunge")


@pytest.mark.parametrize("method", ["adversarial", "boundary_expanding", "scrub", "fisher_forgetting", "newton_step"])
def test_every_sort_of_method_computes_in_float32_whatever_the_default(method: str) -> None:
    given = {"method": method, "validation": OwnDataset(12, 4)} | ({"l2": 0.1} if method == "newton_step" else {})
    given |= {"pretrain_steps": 2, "epochs": 1} if method == "adversarial" else {}
    expected = expunge.unlearn(trained(), **DATA, **given).model
    with double_by_default():
        found = expunge.unlearn(trained_float32(), **DATA, **given).model
    assert problems.same(found, expected)


def trained_float32() -> nn.Module:
    torch.set_default_dtype(torch.float32)
    try:
        return trained()
    finally:
        torch.set_default_dtype(torch.float64)


def test_the_first_evaluation_of_a_process_leaves_the_generators_alone() -> None:
    code = (
        "import numpy as np, torch; from torch import nn; import expunge\n"
        "np.random.seed(3); torch.manual_seed(3); before = np.random.get_state()[1].copy(), torch.get_rng_state()\n"
        "part = lambda n: (torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(n)), torch.arange(n) % 3)\n"
        "model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)); before = before[0], torch.get_rng_state()\n"
        "expunge.evaluate(model, forget=part(9), retain=part(30), test=part(12), original=model, reference=model)\n"
        "print((np.random.get_state()[1] == before[0]).all(), torch.equal(torch.get_rng_state(), before[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_evaluation_does_not_move_the_models_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on another device would stay there: what is moved is a copy."""
    model, moved = trained(), list[object]()
    monkeypatch.setattr(model, "to", lambda *given: moved.append(given) or model)
    expunge.evaluate(model, **DATA, test=OwnDataset(12, 3), original=model, reference=model)
    assert not moved


def test_an_empty_retain_set_is_refused() -> None:
    images = problems.images(9)
    with pytest.raises(RequestError, match="the retain set contains no examples"):
        expunge.unlearn(problems.model(), forget=images, retain=images.select(torch.arange(0)), **QUICK)


def test_the_weight_decay_of_a_recorded_training_is_the_default() -> None:
    data = problems.data()
    trained = expunge.train_recorded(problems.model(), data.everything(), steps=2, batch_size=20, weight_decay=0.5)

    def tuned(**more: object) -> nn.Module:
        options = {"forget": data.forget, "retain": data.retain, "method": "finetune", "epochs": 1}
        return expunge.unlearn(trained.model, **options, **more).model

    known = {"trajectory": trained.trajectory}
    assert problems.same(tuned(**known), tuned(weight_decay=0.5))
    assert problems.same(tuned(), tuned(weight_decay=5e-4, **known))
    assert not problems.same(tuned(), tuned(**known))
    (chained,) = expunge.unlearn_sequence(
        trained.model,
        data.everything(),
        expunge.Sequence(("class:1", "finetune:epochs=1")),
        trajectory=trained.trajectory,
    )
    assert chained.notes["weight_decay"] == 0.5
