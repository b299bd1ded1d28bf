"""The average gap of the methods over the sparsity of the models: does forgetting get easier as models get sparser?"""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import altair as alt

from expunge.report.drawing import GREY, INK, GapScale, Series, curve, distinct, inline, shortened, svg
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import GAP, Cell, Part, Summary


@dataclass(frozen=True)
class Track:
    """A method: how it is drawn, and its average gap at each sparsity; None where it has none."""

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
    sparsities: tuple[float, ...]
    gaps: GapScale
    tracks: int

    @property
    def ends(self) -> tuple[float, float]:
        """The sparsities at the left and the right end, a little beyond those that are drawn."""
        low, high = self.sparsities[0], self.sparsities[-1]
        return low - 0.04 * (high - low), high + 0.04 * (high - low)

    def x(self, number: int) -> float:
        """The place of one of the sparsities."""
        low, high = self.ends
        return self.width * (self.sparsities[number] - low) / (high - low)

    def beside(self, track: int) -> float:
        """How far a track is drawn to the right of its sparsities, so that bars of several do not hide each other."""
        apart = [gap for a, b in pairwise(range(len(self.sparsities))) if (gap := self.x(b) - self.x(a)) > 0]
        step = min(4.0, 0.3 * min(apart) / self.tracks)
        return step * (track - (self.tracks - 1) / 2)

    def axis(self) -> alt.X:
        """The level axis, with ticks at the sparsities that are drawn where there is room."""
        kept: list[int] = []
        for number in reversed(range(len(self.sparsities))):
            if not kept or self.x(kept[-1]) - self.x(number) >= 30:
                kept.append(number)
        ticks = [self.sparsities[number] for number in kept]
        axis = alt.Axis(title="sparsity of the models (%)", values=ticks, format=".3~r", grid=True)
        return alt.X("s:Q", axis=axis, scale=alt.Scale(domain=list(self.ends), nice=False))

    def at(self, number: int, track: int) -> float:
        """The sparsity where a track is drawn for one of the sparsities."""
        low, high = self.ends
        return self.sparsities[number] + self.beside(track) * (high - low) / self.width


def tracks(summary: Summary) -> list[Track]:
    """Every method with an average gap but retraining, in order; the original last, as a grey dashed line."""
    parts = _sorted(summary)
    labels = dict.fromkeys(line.label for line in summary.lines if GAP.name in line.cells)
    methods = [label for label in labels if label not in (REFERENCE, BASELINE)]
    looks = [distinct(label, number) for number, label in enumerate(methods)]
    doing_nothing = [Series(BASELINE, GREY, (5, 4))] if BASELINE in labels else []
    return [Track(look, tuple(_gap(part, look.name) for part in parts)) for look in (*looks, *doing_nothing)]


def _sorted(summary: Summary) -> list[Part]:
    """The scenarios of known sparsity, the densest first."""
    return sorted((part for part in summary.parts if part.sparsity is not None), key=lambda part: part.sparsity or 0.0)


def _gap(part: Part, label: str) -> Cell | None:
    line = part.table.line(label)
    return line.cells.get(GAP.name) if line else None


def over_sparsity(summary: Summary, width: int, height: int, *, labelled: bool = True) -> str | None:
    """Average gap (points, square-root scale) over sparsity (percent), a line per method, its name at its end.

    None where fewer than two scenarios differ in sparsity, or no method has an average gap.
    """
    shown = tracks(summary)
    sparsities = tuple(part.sparsity or 0.0 for part in _sorted(summary))
    if len(set(sparsities)) < 2 or not any(track.series.name != BASELINE for track in shown):
        return None
    high = max(gap.mean + (gap.std or 0.0) for track in shown for gap in track.gaps if gap)
    frame = Frame(width, sparsities, GapScale(height, max(high * 1.1, 0.5)), len(shown))
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
    """A name at its place, and a thin line to it from the end of its line, given as sparsity and height."""
    low, high = frame.ends
    margin, left = (high + pixels * (high - low) / frame.width for pixels in (8, 12))
    x, y, colour = frame.axis(), frame.gaps.axis(), track.series.colour
    rows = [{"s": s, "g": frame.gaps.gap(level)} for s, level in (end, (margin, place))]
    leader = alt.Chart(inline(rows)).mark_line(color=colour, strokeWidth=0.7, opacity=0.6).encode(x=x, y=y)
    words = shortened(track.series.name)
    text = alt.Chart(inline([{"s": left, "g": frame.gaps.gap(place), "words": words}]))
    ink = GREY if track.series.name == BASELINE else INK
    return [leader, text.mark_text(align="left", color=ink, fontSize=12).encode(x=x, y=y, text="words:N")]
