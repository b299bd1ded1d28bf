"""Architectures against the original networks, whose weights come from a formula in the case."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checkpoints
from expunge.core.weights import load
from expunge.data.normalisation import with_normalisation
from tests import problems
from tests.golden import cases
from tests.golden.cases import Case

MODELS = {
    "arch_cnn_mnist": "cnn",
    "arch_lenet": "lenet",
    "arch_logistic": "logistic",
    "arch_resnet18": "resnet18",
    "arch_resnet20": "resnet20",
    "arch_resnet34": "resnet34",
    "arch_resnet44": "resnet44",
    "arch_resnet50": "resnet50",
    "arch_resnet56": "resnet56",
    "arch_vgg16_bn": "vgg16_bn",
    "arch_vgg16_bn_lth": "vgg16_bn_lth",
}


def number(case: Case, size: int, kind: str, position: int = 0) -> Tensor:
    """The numbers of an input, or of the state dict's entry at that position: float64 (size,)."""
    given = case.hyperparameters["constants"]
    at, modulus = torch.arange(size), given["modulus"]
    names = [f"{kind}quadratic", f"{kind}linear", f"{kind}offset"]
    quadratic, linear, offset = (given[name] for name in names)
    value = quadratic * (at * at % modulus) + linear * (at % modulus) + offset + given["position"] * position
    return (value % modulus).double() / modulus


def state(case: Case) -> dict[str, Tensor]:
    """The state dict of the original network by the names it has there, but for what its constructor gives."""
    found: dict[str, Tensor] = {}
    norm = case.hyperparameters.get("normalisation")
    for key, shape, _, position, kind in case.hyperparameters["state"]:
        if kind == "given":
            given = norm and {"normalize.mean": norm["mean"], "normalize.std": norm["std"]}.get(key)
            found[key] = torch.tensor(given) if given else torch.zeros(shape, dtype=torch.int64)
            continue
        value = 2 * number(case, torch.Size(shape).numel(), "", position).view(shape) - 1
        fan = torch.Size(shape[1:]).numel()
        scaled = {
            "weight": value * (3 * case.hyperparameters["gain"] / fan) ** 0.5,
            "scale": 1 + 0.2 * value,
            "bias": 0.1 * value,
            "mean": 0.1 * value,
            "var": 1 + 0.5 * value,
        }
        found[key] = scaled[kind].float()
    return found


def network(case: Case, folder: Path) -> nn.Module:
    """Our network by its name alone with these weights, read as a checkpoint where a layout is published."""
    options = case.hyperparameters["options"]
    model = problems.architecture(MODELS[case.name], tuple(inputs(case)[""].shape[1:]), options["num_classes"])
    given, norm = state(case), case.hyperparameters.get("normalisation")
    if norm is None:
        names = model.state_dict()
        assert [tuple(value.shape) for value in names.values()] == [tuple(value.shape) for value in given.values()]
        model.load_state_dict(dict(zip(names, given.values(), strict=True)))
        return model.double().eval()
    whole = with_normalisation(model, (0.0,) * len(norm["mean"]), (1.0,) * len(norm["std"]))
    torch.save({"state_dict": given}, folder / "original.pth.tar")
    translated, _ = checkpoints.translate(checkpoints.read(folder / "original.pth.tar"), whole, case.name)
    load(whole, translated, case.name)
    return whole.double().eval()


def inputs(case: Case) -> dict[str, Tensor]:
    """The inputs by the ending of their name in the case; the first has none. They are stored where small."""
    found: dict[str, Tensor] = {}
    for position, (name, shape) in enumerate(case.hyperparameters["input_shapes"].items()):
        value = number(case, torch.Size(shape).numel(), "input_").float().view(shape)
        ending = "" if position == 0 else f".{name}"
        stored = case.tensors.get(f"inputs{ending}")
        assert stored is None or torch.equal(stored, value), "the formula gives the stored inputs"
        found[ending] = value
    return found


def logits(model: nn.Module, case: Case, given: Tensor) -> Tensor:
    found = model(given.double())
    probabilities = case.hyperparameters["options"].get("outputs") == "log-probabilities"
    return functional.log_softmax(found, 1) if probabilities else found


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    return cases.load(request.param)


@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_the_original(case: Case, tmp_path: Path) -> None:
    model, given = network(case, tmp_path), inputs(case)
    for ending, images in given.items():
        case.check(logits(model, case, images), f"logits{ending}")
    loss = functional.cross_entropy(logits(model, case, given[""]), torch.arange(len(given[""])))
    case.check(loss[None], "loss")
    trained = [key for key, _, _, _, kind in case.hyperparameters["state"] if kind in ("weight", "scale", "bias")]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norms = torch.stack([gradient.norm() for gradient in gradients])
    assert len(norms) == len(trained)
    expected = case.tensors["gradient_norms"].sort().values  # the order of our weights is our own
    case.check(norms.sort().values, expected)


@pytest.mark.slow
def test_batch_statistics_are_those_of_the_original(case: Case, tmp_path: Path) -> None:
    if "logits_batch_statistics" not in case.tensors:
        pytest.skip("the network has no batch normalisation")
    model, given = network(case, tmp_path), inputs(case)[""]
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.train()
    case.check(model(given.double()), "logits_batch_statistics")
    for part in ("running_mean", "running_var"):
        stored = case.prefixed(f"{part}_after.")
        assert len(stored) == 2
        for layer, value in zip((layers[0], layers[-1]), stored.values(), strict=True):
            case.check(getattr(layer, part), value)
