"""Loss curves: the loss of each role over the steps of a method."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import altair as alt
import torch
from torch import Tensor

from expunge.report import drawing
from expunge.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, Series


def role_series(roles: Sequence[str]) -> list[Series]:
    """The series of each role: forget and retain as in the histograms, others in turn."""
    fixed = {"retain": Series("retain", BLUE), "forget": Series("forget", ORANGE, (6, 3))}
    others = [role for role in dict.fromkeys(roles) if role not in fixed]
    looks = cycle(((GREEN, (2, 2)), (PURPLE, (8, 3)), (SKY, (8, 3, 2, 3)), (INK, (1, 2))))
    found = fixed | {role: Series(role, *look) for role, look in zip(others, looks, strict=False)}
    return [found[role] for role in dict.fromkeys(roles)]


def losses(histories: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """For each history (losses by role, one value a step), the loss of each role over the steps, on axes of its own."""
    series = role_series([role for history in histories for role in history])
    charts: list[str] = []
    for history in histories:
        rows = [
            {"series": role, "step": step, "loss": loss}
            for role, values in history.items()
            for step, loss in downsample(values)
        ]
        look = drawing.encodings(series, drawing.lines_legend(list(history)))
        steps = alt.Scale(domain=[0, max(map(len, history.values()))], nice=False)
        chart = drawing.inline(rows).mark_line(strokeWidth=1.8, clip=True)
        encoded = chart.encode(
            x=alt.X("step:Q", scale=steps, axis=alt.Axis(tickCount=5)),
            y=alt.Y("loss:Q", axis=alt.Axis(tickCount=4)),
            color=look.colour,
            strokeDash=look.dash,
        )
        charts.append(drawing.svg(encoded.properties(width=270, height=130)))
    return charts


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
