"""Loss curves: what each role's loss did over the steps of a method."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import altair as alt
import torch
from torch import Tensor

from expunge.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, Series, curve, svg
from expunge.report.results import Losses

_SPARE = ((GREEN, (2, 2)), (PURPLE, (8, 3)), (SKY, (8, 3, 2, 3)), (INK, (1, 2)))


def role_series(roles: Sequence[str]) -> list[Series]:
    """A look for each role: forget and retain as in the histograms, others in turn."""
    fixed = {"retain": Series("retain", BLUE), "forget": Series("forget", ORANGE, (6, 3))}
    others = [role for role in dict.fromkeys(roles) if role not in fixed]
    spare = {role: Series(role, *_SPARE[i % len(_SPARE)]) for i, role in enumerate(others)}
    return [fixed.get(role) or spare[role] for role in dict.fromkeys(roles)]


Name = TypeVar("Name", bound=Hashable)


def losses(methods: Mapping[Name, Losses], width: int = 270, height: int = 130) -> dict[Name, str]:
    """For each method that took steps, the loss of each role over its steps, each on axes of its own."""
    roles = [role for found in methods.values() for role in found.by_role]
    looks = {series.name: series for series in role_series(roles)}
    return {label: _loss(found, looks, width, height) for label, found in methods.items() if len(found)}


def _loss(found: Losses, looks: Mapping[str, Series], width: int, height: int) -> str:
    steps = alt.Scale(domain=[0, len(found)], nice=False)
    layers = [
        curve([{"x": x, "y": y} for x, y in downsample(values)], looks[role]).encode(
            x=alt.X("x:Q", title="step", scale=steps, axis=alt.Axis(tickCount=5)),
            y=alt.Y("y:Q", title="loss", axis=alt.Axis(tickCount=4), scale=alt.Scale(zero=True)),
        )
        for role, values in found.by_role.items()
    ]
    return svg(alt.layer(*layers).properties(width=width, height=height))


def downsample(values: Tensor, most: int = 200) -> list[tuple[float, float]]:
    """At most ``most`` points (step, loss): means over runs of consecutive steps, from 1; NaN is left out."""
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64)
    size = math.ceil(len(values) / most) or 1
    found: list[tuple[float, float]] = []
    for at, part in zip(steps.split(size), values.split(size), strict=True):
        known = part.isfinite()
        if bool(known.any()):
            found.append((float(at[known].mean()), float(part[known].mean())))
    return found
