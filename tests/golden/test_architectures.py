"""Architectures against the original networks, whose weights come from a formula in the case."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checkpoints
from expunge.core.errors import RequestError
from expunge.core.weights import load, load_pretrained
from expunge.data.normalisation import with_normalisation
from expunge.models import _swin as swins
from tests import problems
from tests.golden import cases
from tests.golden.cases import Case

Options = Mapping[str, Any]


def fixed(text: str) -> Callable[[Options], str]:
    """The same text for every case."""
    return lambda _: text


def listed(values: Sequence[int]) -> str:
    return "+".join(map(str, values))


def swin(options: Options) -> str:
    heads, depths = listed(options["num_heads"]), listed(options["depths"])
    return f"swin_t:width={options['embed_dim']},depths={depths},heads={heads},window={options['window']}"


def swin_small_images(options: Options) -> str:
    assert options["downscaling_factors"] == [2, 2, 2, 1]
    sizes = f"width={options['hidden_dim']},depths={listed(options['layers'])},heads={listed(options['heads'])}"
    return f"swin_small_images:{sizes},head_size={options['head_dim']},window={options['window_size']}"


def vit(options: Options) -> str:
    sizes = {"width": "embed_dim", "depth": "depth", "heads": "num_heads", "patch": "patch_size"}
    return f"vit_s:{','.join(f'{ours}={options[theirs]}' for ours, theirs in sizes.items())}"


def lfw(options: Options) -> str:
    *hidden, classes = options["head"]
    assert classes == options["num_classes"]
    return f"resnet18:stem=imagenet,head={listed(hidden)},dropout={options['dropout']},only_head=true"


PLAIN = ("cnn_cifar", "fashion_cnn", "lenet", "logistic", "vgg16_bn", "vgg16_bn_lth")
RESIDUAL = ("resnet18", "resnet34", "resnet50", "wide_resnet14_2", "wide_resnet50_2")
MODELS: Mapping[str, Callable[[Options], str]] = {
    "arch_cnn_mnist": fixed("cnn"),
    "arch_mlp_tabular": lambda options: f"mlp:hidden={listed(options['hidden'])},dropout={options['dropout']}",
    "arch_resnet18_lfw": lfw,
    **{f"arch_swin_small_images{end}": swin_small_images for end in ("", "_tiny")},
    **{f"arch_swin_t{end}": swin for end in ("", "_tiny")},
    **{f"arch_vit_s{end}": vit for end in ("", "_tiny")},
    **{f"arch_{name}": fixed(name) for name in (*PLAIN, *RESIDUAL, "resnet20", "resnet44", "resnet56")},
    **{f"arch_{name}_imagenet": fixed(f"{name}:stem=imagenet") for name in RESIDUAL},
}
DEFAULTS = {"arch_swin_small_images": "swin_small_images", "arch_swin_t": "swin_t", "arch_vit_s": "vit_s"}
"""Cases of the whole networks: our options are their defaults."""


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
            counter = torch.zeros(shape, dtype=torch.int64)
            found[key] = torch.tensor(given) if given else case.tensors.get(f"given.{key}", counter)
            continue
        value = 2 * number(case, torch.Size(shape).numel(), "", position).view(shape) - 1
        fan = torch.Size(shape[2:] if len(shape) == 3 else shape[1:]).numel()
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
    """Our network with these weights, read from a checkpoint with the names of the original."""
    options = case.hyperparameters["options"]
    shape = tuple(inputs(case)[""].shape[1:])
    model = problems.architecture(MODELS[case.name](options), shape, options["num_classes"])
    norm = case.hyperparameters.get("normalisation") or {"mean": [], "std": []}
    if norm["mean"]:
        model = with_normalisation(model, (0.0,) * len(norm["mean"]), (1.0,) * len(norm["std"]))
    torch.save({"state_dict": state(case)}, folder / "original.pth.tar")
    translated, _ = checkpoints.translate(checkpoints.read(folder / "original.pth.tar"), model, case.name)
    load(model, translated, case.name)
    return model.double().eval()


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
    model, given = network(case, tmp_path).requires_grad_(), inputs(case)
    for ending, images in given.items():
        case.check(logits(model, case, images), f"logits{ending}")
    labels = torch.arange(len(given[""])) % case.hyperparameters["options"]["num_classes"]
    loss = functional.cross_entropy(logits(model, case, given[""]), labels)
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


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_options_of_the_whole_networks_are_the_defaults(name: str) -> None:
    options = cases.load(name).hyperparameters["options"]
    wanted, default = MODELS[name](options), DEFAULTS[name]
    with torch.device("meta"):
        models = [problems.architecture(text) for text in (wanted, default)]
    assert [w.shape for w in models[0].parameters()] == [w.shape for w in models[1].parameters()]


def test_tables_and_masks_are_those_that_the_constructors_make(case: Case, tmp_path: Path) -> None:
    given = case.prefixed("given.")
    if not given:
        pytest.skip("the constructor makes none")
    model = network(case, tmp_path)
    for key, value in given.items():
        if key.endswith("relative_position_index"):
            assert torch.equal(model.get_buffer(key), value)
        else:
            window = case.hyperparameters["options"]["window_size"]
            half = window // 2
            _, right, low, _ = swins.shift_mask((2 * window, 2 * window), window, (half, half))
            assert torch.equal({"upper_lower_mask": low, "left_right_mask": right}[key.rpartition(".")[2]], value)
    assert not any(value.isinf().any() for value in model.state_dict().values()), "no mask is stored or trained"


PUBLISHED = re.compile(r"^(?:(\d+) classes|Wine \((\d+) features, (\d+) outputs\)|this configuration)")


def test_sizes_are_the_published_ones(case: Case) -> None:
    """Counts for other numbers of classes, where the case says how many."""
    options, found = case.hyperparameters["options"], 0
    for words, wanted in case.hyperparameters["parameters"].items():
        match = PUBLISHED.match(words)
        if match is None or (case.name.endswith("_tiny") and "classes" in words):
            continue
        classes = int(match[1] or match[3] or options["num_classes"])
        shape = tuple(inputs(case)[""].shape[1:])
        with torch.device("meta"):
            model = problems.architecture(MODELS[case.name](options), shape, classes)
        masks = sum(value.numel() for key, value in case.prefixed("given.").items() if key.endswith("_mask"))
        assert sum(weight.numel() for weight in model.parameters()) + masks * ("masks" in words) == wanted, words
        found += 1
    assert found or case.name.endswith("_tiny")


def timm_name(name: str, at_end: bool) -> str:
    """A name of torchvision's Swin as timm writes it, whose versions merge pixels at the end or the beginning."""
    parts = name.split(".")
    if parts[0] == "head":
        return name if at_end else f"head.fc.{parts[1]}"
    if parts[0] != "features":
        return name
    stage = int(parts[1])
    if stage == 0:
        return {"0": "patch_embed.proj", "2": "patch_embed.norm"}[parts[2]] + f".{parts[3]}"
    if stage % 2 == 0:
        return f"layers.{stage // 2 - at_end}.downsample.{'.'.join(parts[2:])}"
    inner = ".".join(parts[3:]).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
    return f"layers.{stage // 2}.blocks.{parts[2]}.{inner}"


@pytest.mark.parametrize("at_end", [False, True])
def test_swin_of_timm_is_read(at_end: bool, tmp_path: Path) -> None:
    case = cases.load("arch_swin_t_tiny")
    given = {timm_name(name, at_end): value for name, value in state(case).items()}
    given["layers.0.blocks.1.attn_mask"] = torch.zeros(2, 3)
    torch.save(given, tmp_path / "timm.pth")
    ours, theirs = network(case, tmp_path), network(case, tmp_path)
    for weight in theirs.parameters():
        weight.detach().zero_()
    found, _ = checkpoints.translate(checkpoints.read(tmp_path / "timm.pth"), theirs.float(), "timm.pth")
    load(theirs, found, "timm.pth")
    assert problems.same(theirs, ours.float())


@pytest.mark.parametrize("name", ["arch_swin_small_images_tiny", "arch_swin_t_tiny", "arch_vit_s_tiny"])
def test_every_name_of_a_transformer_is_accounted_for(name: str, tmp_path: Path) -> None:
    case = cases.load(name)
    model, whole = network(case, tmp_path).float(), state(case)
    kept = [key for key, _, _, position, _ in case.hyperparameters["state"] if position is not None]
    for key in kept[::9]:
        for change, message in (({key: None}, "missing"), ({key: torch.zeros(1, 2, 3)}, r"has shape \(1, 2, 3\)")):
            torch.save({k: v for k, v in (whole | change).items() if v is not None}, tmp_path / "a.pt")
            with pytest.raises(RequestError, match=message):
                checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), model, "a.pt")
    torch.save({**whole, "layers.9.x": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"layers\.9\.x is unknown"):
        checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), model, "a.pt")


def test_a_swin_for_small_images_takes_raw_pixels_whatever_its_checkpoint_says(tmp_path: Path) -> None:
    """The network of Unlearn-Sparse holds a normalisation that it never calls."""
    case = cases.load("arch_swin_small_images_tiny")
    unused = {"normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.2)}
    torch.save(state(case) | unused, tmp_path / "a.pt")
    model = with_normalisation(network(case, tmp_path).float(), (0.3,) * 3, (0.4,) * 3).eval()
    found, _ = checkpoints.translate(checkpoints.read(tmp_path / "a.pt"), model, "a.pt")
    load(model, found, "a.pt")
    case.check(model(inputs(case)[""]), "logits")


@pytest.mark.parametrize("name", ["arch_swin_t_tiny", "arch_vit_s_tiny"])
@pytest.mark.parametrize("same", [True, False], ids=["same classes", "other classes"])
def test_transformers_start_from_a_file(name: str, same: bool, tmp_path: Path) -> None:
    case = cases.load(name)
    whole, options, shape = problems.weights(network(case, tmp_path)), case.hyperparameters["options"], inputs(case)[""]
    torch.save(state(case), tmp_path / "a.pth")
    text, classes = f"{MODELS[name](options)},pretrained={tmp_path / 'a.pth'}", options["num_classes"] + (not same)
    model = problems.architecture(text, tuple(shape.shape[1:]), classes)
    (told,) = load_pretrained(model)
    assert ("the head (head), which has another shape, does not" in told) != same
    kept = {key.removeprefix("network."): value.float() for key, value in whole.items()}
    differ = {key for key, value in model.named_parameters() if not torch.equal(value, kept[key])}
    assert differ == (set() if same else {"head.weight", "head.bias"})
