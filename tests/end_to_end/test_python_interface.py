"""The Python interface on a user's own model and data."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import expunge
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
    from expunge.api.unlearn import as_image_set

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
        ({"forget": (torch.zeros(2, 1, 4, 4), torch.zeros(3).long())}, "as many labels"),
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
