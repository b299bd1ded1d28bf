"""Histograms of membership scores: the confidence of a model on the forget, retain and test set."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false

import json
import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import torch
from torch import Tensor

from expunge.report.drawing import BLUE, INK, ORANGE, Series, encodings, inline, lines_legend, svg

SPLITS = (Series("retain", BLUE), Series("test", INK, (4, 3)), Series("forget", ORANGE))
"""The splits of a histogram, in drawing order: the forget set is on top."""

Scores = Mapping[str, Tensor]
"""``Predictions.log_odds`` (n,) by split."""


def membership(models: Sequence[Scores]) -> list[str]:
    """For each model, the shares of forget, retain and test examples by confidence of the true label.

    All have the same axes, with bins that hold all but the outermost half percent of the scores; the rest is
    counted in the outermost bins.
    """
    joined = torch.cat([torch.zeros(1).double(), *(scores for by in models for scores in by.values())])
    low, high = np.quantile(joined[joined.isfinite()].numpy(), (0.005, 0.995))
    edges = torch.linspace(min(low, -3.0), max(high, 3.0), 29, dtype=torch.float64)
    shares = [{name: share(scores, edges) for name, scores in by.items()} for by in models]
    most = max((float(part.max()) for by in shares for part in by.values()), default=0.0) or 1.0
    return [_histogram(by, edges, most * 1.05) for by in shares]


def share(scores: Tensor, edges: Tensor) -> Tensor:
    """The percentage of scores in each bin (bins,), those beyond the ends in the outermost; NaN is left out."""
    known = scores[~scores.isnan()]
    place = torch.bucketize(known, edges[1:-1], right=True)
    return 100.0 * torch.bincount(place, minlength=len(edges) - 1).double() / max(len(known), 1)


def _histogram(shares: Mapping[str, Tensor], edges: Tensor, most: float) -> str:
    rows = [
        {"series": series.name, "score": float(edge), "share": float(height)}
        for series in SPLITS
        for edge, height in zip(edges, [*shares[series.name], shares[series.name][-1]], strict=True)
    ]
    domain = [float(edges[0]), float(edges[-1])]
    ticks = probability_ticks(*domain)
    labels = f"{json.dumps(list(ticks.values()))}[indexof({json.dumps(list(ticks))}, datum.value)]"
    confidence = alt.Axis(title="confidence of the true label", values=list(ticks), labelExpr=labels)
    look = encodings(SPLITS, lines_legend([series.name for series in SPLITS]))
    base = inline(rows).encode(
        x=alt.X("score:Q", axis=confidence, scale=alt.Scale(domain=domain, nice=False)),
        y=alt.Y("share:Q", title="examples (%)", axis=alt.Axis(tickCount=4), scale=alt.Scale(domain=[0, most])),
        color=look.colour,
    )
    filled = base.transform_filter("datum.series == 'forget'").mark_area(interpolate="step-after", opacity=0.25)
    outlines = base.mark_line(interpolate="step-after", strokeWidth=1.8, clip=True).encode(strokeDash=look.dash)
    return svg(alt.layer(filled, outlines).properties(width=270, height=130))


def probability_ticks(low: float, high: float) -> dict[float, str]:
    """At most seven log-odds in the range, and their probabilities: 0.5, powers of ten and their complements."""
    step = max(1, math.ceil(max(-low, high) / (3 * math.log(10))))
    ticks = {0.0: "0.5"}
    for tens in (step, 2 * step, 3 * step):
        odds = math.log(10**tens - 1)  # of the probability 1 - 10^-tens
        small = f"{10.0**-tens:.{tens}f}" if tens <= 3 else f"10{str(-tens).translate(_SUPERSCRIPT)}"
        large = f"{1 - 10.0**-tens:.{tens}f}" if tens <= 3 else f"1\N{MINUS SIGN}{small}"
        ticks |= {-odds: small, odds: large}
    return {odds: ticks[odds] for odds in sorted(ticks) if low <= odds <= high}


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
