"""How near the methods come to retraining over what sets scenarios apart: the sparsity, or a number that was varied."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import altair as alt

from expunge.report.drawing import GREY, INK, GapScale, Series, curve, distinct, gap_scale, inline, shortened, svg
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import Cell, Part, Summary


@dataclass(frozen=True)
class Axis:
    """What sets the scenarios apart: its name, and the scenarios by its value, the smallest first."""

    title: str
    places: tuple[tuple[float, Part], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The value of each scenario."""
        return tuple(value for value, _ in self.places)

    @property
    def logarithmic(self) -> bool:
        """Whether the values are so far apart that equal ratios are to be drawn equally wide."""
        return self.values[0] > 0 and self.values[-1] / self.values[0] >= 30


SPARSITY = "sparsity of the models (%)"


def axis(summary: Summary) -> Axis | None:
    """The sparsity of the models where it differs; else the one number in which the names of scenarios differ."""
    sparsities = [(part.sparsity, part) for part in summary.parts]
    known = [(value, part) for value, part in sparsities if value is not None]
    if len({value for value, _ in known}) > 1:
        return Axis(SPARSITY, tuple(sorted(known, key=_value)))
    found = [NUMBER.fullmatch(part.scenario) for part in summary.parts]
    numbers = [(float(match[2]), part) for match, part in zip(found, summary.parts, strict=True) if match]
    names = {f"{match[1]}{match[3]}" if match else None for match in found}
    if len(names) > 1 or len({value for value, _ in numbers}) < 2:
        return None
    return Axis(_title(next(iter(names)) or ""), tuple(sorted(numbers, key=_value)))


NUMBER = re.compile(r"(\w[\w.]*=(?:random:)?)((?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(%?)")
"""The name of a scenario in which one number was varied: ``lr=0.1``, ``forget=random:10%``."""


def _value(place: tuple[float, Part]) -> float:
    return place[0]


def _title(name: str) -> str:
    """The displayed name of a varied number: ``batch_size=`` is ``batch size``."""
    unit = " (%)" if name.endswith("%") else ""
    words = "examples to forget" if name.startswith("forget=") else name.rstrip("%=").replace("_", " ")
    return f"{words}{unit}"


@dataclass(frozen=True)
class Track:
    """A method: how it is drawn, and its nearness to retraining at each value; None where it has none."""

    series: Series
    gaps: tuple[Cell | None, ...]

    @property
    def end(self) -> int:
        """The number of its last gap."""
        return max(number for number, gap in enumerate(self.gaps) if gap)


@dataclass(frozen=True)
class Frame:
    """The plotting area in pixels and its scales."""

    width: float
    across: Axis
    gaps: GapScale
    tracks: int

    def _even(self, value: float) -> float:
        """A value on a scale where equal distances are drawn equally wide."""
        return math.log(value) if self.across.logarithmic else value

    def x(self, number: int) -> float:
        """The place of one of the values, those at the ends being a little within."""
        low, value, high = map(self._even, (self.across.values[0], self.across.values[number], self.across.values[-1]))
        return self.width * ((value - low) / (high - low) + 0.04) / 1.08

    def value(self, x: float) -> float:
        """The value at a place, within the area or beside it."""
        low, high = map(self._even, (self.across.values[0], self.across.values[-1]))
        even = low + (high - low) * (1.08 * x / self.width - 0.04)
        return math.exp(even) if self.across.logarithmic else even

    def beside(self, track: int) -> float:
        """How far a track is drawn to the right of its values, so that bars of several do not hide each other."""
        apart = [gap for a, b in pairwise(range(len(self.across.values))) if (gap := self.x(b) - self.x(a)) > 0]
        step = min(4.0, 0.3 * min(apart) / self.tracks)
        return step * (track - (self.tracks - 1) / 2)

    def axis(self) -> alt.X:
        """The level axis, with ticks at the values that are drawn where there is room."""
        kept: list[int] = []
        for number in reversed(range(len(self.across.values))):
            if not kept or self.x(kept[-1]) - self.x(number) >= 30:
                kept.append(number)
        ticks = [self.across.values[number] for number in kept]
        title = f"{self.across.title}, log scale" if self.across.logarithmic else self.across.title
        axis = alt.Axis(title=title, values=ticks, format=".3~r", grid=True)
        kind = "log" if self.across.logarithmic else "linear"
        domain = [self.value(0.0), self.value(self.width)]
        return alt.X("s:Q", axis=axis, scale=alt.Scale(type=kind, domain=domain, nice=False))

    def at(self, number: int, track: int) -> float:
        """The value where a track is drawn for one of the values."""
        return self.value(self.x(number) + self.beside(track))


def tracks(summary: Summary) -> list[Track]:
    """Every method whose nearness is known but retraining, in order; the original last, as a grey dashed line."""
    across = axis(summary)
    parts = [part for _, part in across.places] if across else []
    labels = dict.fromkeys(line.label for line in summary.lines if summary.judge.name in line.cells)
    methods = [label for label in labels if label not in (REFERENCE, BASELINE)]
    looks = [distinct(label, number) for number, label in enumerate(methods)]
    doing_nothing = [Series(BASELINE, GREY, (5, 4))] if BASELINE in labels else []
    return [Track(look, tuple(_gap(part, look.name) for part in parts)) for look in (*looks, *doing_nothing)]


def _gap(part: Part, label: str) -> Cell | None:
    line = part.table.line(label)
    return line.cells.get(part.table.judge.name) if line else None


def over_scenarios(summary: Summary, width: int, height: int, *, labelled: bool = True) -> str | None:
    """Nearness to retraining (square-root scale) over what sets scenarios apart, a line per method with its name.

    None where no number sets them apart, or no method's nearness is known.
    """
    across, shown = axis(summary), tracks(summary)
    if across is None or not any(track.series.name != BASELINE for track in shown):
        return None
    high = max(gap.mean + (gap.std or 0.0) for track in shown for gap in track.gaps if gap)
    frame = Frame(width, across, gap_scale(summary.judge, height, high * 1.1), len(shown))
    layers = [layer for number in reversed(range(len(shown))) for layer in _track(frame, shown[number], number)]
    names = _names(frame, shown) if labelled else []
    return svg(alt.layer(*layers, *names).properties(width=width, height=height))


def _track(frame: Frame, track: Track, number: int) -> list[alt.Chart]:
    """The spread over seeds as bars, the line and its points."""
    series, x, y = track.series, frame.axis(), frame.gaps.axis()
    rows = [{"s": frame.at(place, number), "g": gap.mean if gap else None} for place, gap in enumerate(track.gaps)]
    made = [*_bars(frame, track, number), curve(rows, series).encode(x=x, y=y)]
    if series.marker:
        points = alt.Chart(inline([row for row in rows if row["g"] is not None]))
        mark = points.mark_point(shape=series.marker, filled=True, color=series.colour, size=75, opacity=1)
        made.append(mark.encode(x=x, y=y))
    return made


def _bars(frame: Frame, track: Track, number: int) -> list[alt.Chart]:
    """One standard deviation up and down."""
    rows = [
        {"s": frame.at(place, number), "g": max(gap.mean - gap.std, 0.0), "g2": gap.mean + gap.std}
        for place, gap in enumerate(track.gaps)
        if gap and gap.std
    ]
    mark = alt.Chart(inline(rows)).mark_rule(color=track.series.colour, strokeWidth=1.6, opacity=0.55)
    return [mark.encode(x=frame.axis(), y=frame.gaps.axis(), y2="g2:Q")] if rows else []


def _names(frame: Frame, shown: Sequence[Track]) -> list[alt.Chart]:
    """The names to the right of the area, each as near to the end of its line as the others allow."""
    levels = [_level(frame, track) for track in shown]
    places = spread_out(levels, frame.gaps.height)
    return [
        layer
        for number, track in enumerate(shown)
        for layer in _name(frame, track, (frame.at(track.end, number), levels[number]), places[number])
    ]


def _level(frame: Frame, track: Track) -> float:
    """The height of the end of a line."""
    end = track.gaps[track.end]
    return frame.gaps.y(end.mean if end else 0.0)


def spread_out(places: Sequence[float], height: float, apart: float = 15.0) -> list[float]:
    """Places moved as little as keeps them ``apart`` in their order and, if there is room, at most at ``height``."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    found = list(places)
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + apart)
    limit = height
    for number in reversed(order):
        found[number] = min(found[number], limit)
        limit = found[number] - apart
    return found


def _name(frame: Frame, track: Track, end: tuple[float, float], place: float) -> list[alt.Chart]:
    """A name at its place, and a thin line to it from the end of its line, given as value and height."""
    margin, left = (frame.value(frame.width + pixels) for pixels in (8, 12))
    x, y, colour = frame.axis(), frame.gaps.axis(), track.series.colour
    rows = [{"s": s, "g": frame.gaps.gap(level)} for s, level in (end, (margin, place))]
    leader = alt.Chart(inline(rows)).mark_line(color=colour, strokeWidth=0.7, opacity=0.6).encode(x=x, y=y)
    words = shortened(track.series.name)
    text = alt.Chart(inline([{"s": left, "g": frame.gaps.gap(place), "words": words}]))
    ink = GREY if track.series.name == BASELINE else INK
    return [leader, text.mark_text(align="left", color=ink, fontSize=12).encode(x=x, y=y, text="words:N")]
