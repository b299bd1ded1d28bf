"""Where the weights of a network start, what of it is trained, and its head."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import nn

from expunge.core import checkpoints, checks, files, weights
from expunge.core.errors import RequestError


@dataclass(frozen=True)
class StartConfig:
    """Options of networks that can start from trained weights."""

    pretrained: str | None = None
    """A file of trained weights (.safetensors, .pth) with the names of torchvision or timm, to start from, also when
    the model is retrained."""
    sha256: str = ""
    """SHA-256 of the file of weights, by default that of the file as it is now; a changed file is refused."""
    head: tuple[int, ...] = ()
    """Units of hidden layers between the features and the classes, with ReLU and dropout; none by default."""
    dropout: float = 0.5
    """Chance that a unit of these hidden layers is dropped in training."""
    only_head: bool = False
    """Train the head alone. Running statistics of batch normalisation follow the training images all the same."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.between(0, 0.999, dropout=self.dropout)
        for width in self.head:
            checks.at_least(1, head=width)
        if self.pretrained is not None and not self.sha256:
            object.__setattr__(self, "sha256", files.digest(Path(self.pretrained)))


def head(features: int, config: StartConfig, num_classes: int) -> nn.Module:
    """Linear layers from the features to the classes, with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise((features, *config.head, num_classes)):
        layers += [nn.ReLU(), nn.Dropout(config.dropout)] * bool(layers) + [nn.Linear(before, after)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def freeze(network: nn.Module, config: StartConfig, last: str) -> None:
    """Freeze all weights but those of the layer ``last``, if asked to."""
    for name, weight in network.named_parameters():
        weight.requires_grad_(not config.only_head or name.startswith(f"{last}."))


def load(network: nn.Module, config: StartConfig, last: str) -> str:
    """Set the weights to those of the file, if one is named; the layer ``last`` only if it has the same shape.

    Returns what to tell the user.

    Raises:
        RequestError: The file is missing or has changed, or another name is missing, unknown or of another shape.
    """
    path = config.pretrained
    if path is None:
        return ""
    if files.digest(Path(path)) != config.sha256:
        raise RequestError(f"{path} holds other weights than configured: its bytes have changed")
    checkpoint = checkpoints.read(Path(path))
    same = checkpoints.same_head(checkpoint, network, last)
    state, _ = checkpoints.translate(checkpoint, network, path, without="" if same else last)
    weights.load(network, state, path)
    return (
        f"the weights start from {path}{'' if same else f', but the head ({last}), which has another shape, does not'}"
    )
