"""``expunge.build_model``: networks by their names, as on the command line."""

from typing import cast

from torch import nn

from expunge.api.inputs import check_settings, standard_torch
from expunge.core import config, own_code, randomness, registry
from expunge.models.own import OwnConfig


def build_model(text: str, shape: tuple[int, ...], num_classes: int, *, seed: int = 0) -> nn.Module:
    """Build an untrained network, without normalisation of its inputs.

    Args:
        text: Its name and options as on the command line: ``resnet18:width=16``, ``timm:resnet50``, ``own.py:build``.
            To name a function of your own is to agree that it is executed, which is remembered as by ``--trust``.
        shape: The shape of an image, (channels, height, width).
        num_classes: The number of logits.
        seed: Seed of the initial weights.

    Raises:
        RequestError: There is no such network, or it does not take such images.
    """
    check_settings(seed)
    wanted = config.parse("models", text)
    if isinstance(wanted, OwnConfig) and not own_code.trusted(wanted.sha256):
        own_code.trust(wanted.sha256, wanted.builder)
    with standard_torch(), randomness.seeded(randomness.generator(seed, "initialisation")):
        return cast("nn.Module", registry.of_config("models", wanted).call(wanted, shape, num_classes))
