"""Histograms of membership scores: do forgotten examples look like retained ones or like unseen ones?"""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import altair as alt
import torch
from torch import Tensor

from expunge.report.drawing import BLUE, INK, ORANGE, Series, curve, inline, svg

SPLITS = (Series("retain", BLUE), Series("test", INK, (4, 3)), Series("forget", ORANGE, filled=True))
"""The splits of a histogram, the one that matters most on top."""


Scores = Mapping[str, Tensor]
"""``Predictions.log_odds`` (n,) by split."""


Name = TypeVar("Name", bound=Hashable)


def membership(methods: Mapping[Name, Scores], width: int = 270, height: int = 130) -> dict[Name, str]:
    """For each method, the shares of forget, retain and test examples by confidence of the true label.

    All have the same axes; what lies beyond the ends is counted in the outermost bins.
    """
    edges = _edges([scores for split in methods.values() for scores in split.values()])
    shares = {label: {name: share(scores, edges) for name, scores in by.items()} for label, by in methods.items()}
    most = max((float(s.max()) for by in shares.values() for s in by.values()), default=0.0) or 1.0
    return {label: _histogram(by, edges, most * 1.05, width, height) for label, by in shares.items()}


def _edges(scores: Sequence[Tensor], bins: int = 28) -> Tensor:
    """Edges of equal bins that hold all but the outermost half percent of the scores."""
    joined = torch.cat([found[found.isfinite()] for found in scores]) if scores else torch.zeros(1)
    joined = joined if len(joined) else torch.zeros(1, dtype=torch.float64)
    ordered = joined.double().sort().values
    low, high = (float(ordered[int(part * (len(ordered) - 1))]) for part in (0.005, 0.995))
    return torch.linspace(min(low, -3.0), max(high, 3.0), bins + 1, dtype=torch.float64)


def share(scores: Tensor, edges: Tensor) -> Tensor:
    """The percentage of scores in each bin (bins,), those beyond the ends in the outermost; NaN is left out."""
    known = scores[~scores.isnan()]
    place = torch.bucketize(known, edges[1:-1], right=True)
    return 100.0 * torch.bincount(place, minlength=len(edges) - 1).double() / max(len(known), 1)


def _histogram(shares: Mapping[str, Tensor], edges: Tensor, most: float, width: int, height: int) -> str:
    domain = [float(edges[0]), float(edges[-1])]
    ticks = _odds_ticks(*domain)
    named = f"{json.dumps(list(ticks.values()))}[indexof({json.dumps(list(ticks))}, datum.value)]"
    axis = alt.Axis(title="confidence of the true label", values=list(ticks), labelExpr=named)
    x = alt.X("x:Q", axis=axis, scale=alt.Scale(domain=domain, nice=False))
    upright = alt.Axis(title="examples (%)", tickCount=4)
    y = alt.Y("y:Q", axis=upright, scale=alt.Scale(domain=[0, most], nice=False), stack=None)
    layers: list[alt.Chart] = []
    for series in SPLITS:
        if series.name in shares:
            layers += _steps(_staircase(shares[series.name], edges), series, x, y)
    return svg(alt.layer(*layers).properties(width=width, height=height))


def _staircase(shares: Tensor, edges: Tensor) -> list[dict[str, object]]:
    """The outline of the bars: both ends of each bin, at its height."""
    heights = shares.tolist()
    ends = zip(edges[:-1].tolist(), edges[1:].tolist(), heights, strict=True)
    return [{"x": x, "y": y} for left, right, y in ends for x in (left, right)]


def _steps(rows: Sequence[Mapping[str, object]], series: Series, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    line = curve(rows, series).encode(x=x, y=y)
    if not series.filled:
        return [line]
    return [alt.Chart(inline(rows)).mark_area(color=series.colour, opacity=0.25).encode(x=x, y=y), line]


def _odds_ticks(low: float, high: float) -> dict[float, str]:
    """Log-odds at even powers of ten within the range, with the probabilities that they stand for."""
    third = max(-low, high) / (3 * math.log(10))
    step = next((step for step in (1, 2, 3, 4, 6, 8, 12, 24) if step >= third), math.ceil(third))
    ticks = {_odds(step * k): _probability(step * k) for k in range(-3, 4)}
    return {odds: words for odds, words in ticks.items() if low <= odds <= high}


def _odds(tens: int) -> float:
    """The log-odds of ``10^tens`` for a negative number, of ``1 - 10^-tens`` for a positive one."""
    if tens == 0:
        return 0.0
    return math.copysign(math.log1p(-(10.0 ** -abs(tens))) + abs(tens) * math.log(10), tens)


def _probability(tens: int) -> str:
    """The probability that :func:`_odds` stands for, in words of a label."""
    if abs(tens) <= 3:
        part = 10.0 ** -abs(tens)
        return "0.5" if tens == 0 else f"{part if tens < 0 else 1 - part:.{abs(tens)}f}"
    power = f"10⁻{str(abs(tens)).translate(_SUPERSCRIPT)}"
    return power if tens < 0 else f"1\N{MINUS SIGN}{power}"


_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
