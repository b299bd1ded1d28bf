"""The trade-off of the methods: how far from retraining, after how much time."""

# Altair's methods take keywords of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from expunge.core.registry import Measure
from expunge.report.drawing import BLUE, GREEN, GREY, INK, GapScale, gap_scale, inline, shortened, svg
from expunge.report.results import BASELINE, REFERENCE
from expunge.report.tables import TIME, Cell, Line, Summary, spread


@dataclass(frozen=True)
class Frame:
    """The plotting area of the trade-off in pixels, and the ranges of its scales."""

    width: float
    seconds: tuple[float, float]
    gaps: GapScale

    @property
    def height(self) -> float:
        """How high the area is."""
        return self.gaps.height

    def x(self, seconds: float) -> float:
        """The horizontal place of a run time on a logarithmic scale."""
        low, high = (math.log(value) for value in self.seconds)
        return self.width * (math.log(seconds) - low) / (high - low)

    def y(self, gap: float) -> float:
        """The vertical place of a gap on a square-root scale, from the top."""
        return self.gaps.y(gap)

    @property
    def signs(self) -> int:
        """How long a label may be."""
        return 26 if self.width >= 600 else 15

    def at(self, x: float, y: float) -> dict[str, float]:
        """The run time and the gap at a place in pixels."""
        low, high = (math.log(value) for value in self.seconds)
        return {"s": math.exp(low + (high - low) * x / self.width), "g": self.gaps.gap(y)}

    def holds(self, box: "Box") -> bool:
        """Whether a rectangle lies within the area."""
        return box.left >= 0 and box.top >= 0 and box.right <= self.width and box.bottom <= self.height


@dataclass(frozen=True)
class Point:
    """A method in the trade-off."""

    label: str
    seconds: float
    gap: Cell

    def words(self, most: int) -> str:
        """The label, cut to so many signs."""
        return shortened(self.label, most)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def grown(self, by: float) -> "Box":
        """The rectangle with a margin."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)


def points(summary: Summary) -> list[Point]:
    """The methods that have both a nearness to retraining and a run time above zero, the original left out."""
    found = [_point(line, summary.judge) for line in summary.lines if line.label != BASELINE]
    return [point for point in found if point is not None]


def _point(line: Line, judge: Measure) -> Point | None:
    gap, seconds = line.cells.get(judge.name), line.cells.get(TIME)
    return Point(line.label, seconds.mean, gap) if gap and seconds and seconds.mean > 0 else None


def tradeoff(summary: Summary, width: int, height: int) -> str | None:
    """Nearness to retraining (square-root scale) against run time (seconds, log scale), both better when small.

    Nearness is the metric that ranks methods. The original model is a level line: what lies above it is further from
    retraining than the original. None where no method has both numbers.
    """
    shown = points(summary)
    if not any(point.label != REFERENCE for point in shown):
        return None
    baseline = summary.line(BASELINE)
    level = baseline.cells.get(summary.judge.name) if baseline else None
    seconds, high = _ranges(shown, level)
    frame = Frame(width, seconds, gap_scale(summary.judge, height, high))
    nothing = f"original: {spread(level, summary.judge)}"
    behind = [*_guides(frame, shown, level), *_spreads(frame, shown)]
    layers = [*behind, *_marks(frame, shown), *_labels(frame, shown, level, nothing)]
    return svg(alt.layer(*layers).properties(width=width, height=height))


def _ranges(shown: Sequence[Point], level: Cell | None) -> tuple[tuple[float, float], float]:
    """The least and the largest run time, and the largest gap, a little beyond what is drawn."""
    seconds = [point.seconds for point in shown]
    gaps = [point.gap.mean + (point.gap.std or 0.0) for point in shown] + ([level.mean] if level else [])
    margin = max(1.5, (max(seconds) / min(seconds)) ** 0.12)
    return (min(seconds) / margin, max(seconds) * margin), max(gaps) * 1.15


def _guides(frame: Frame, shown: Sequence[Point], level: Cell | None) -> list[alt.Chart]:
    """The level of the original and the time of retraining."""
    down = _guide_lines(frame, shown, None)
    across = [line for line in _guide_lines(frame, shown, level) if line not in down]
    return [*_rules(frame, across, Stroke(GREY, 1.0, (5, 4))), *_rules(frame, down, Stroke(GREEN, 1.0, (5, 4)))]


def _guide_lines(frame: Frame, shown: Sequence[Point], level: Cell | None) -> list[Box]:
    retrained = [frame.x(point.seconds) for point in shown if point.label == REFERENCE]
    across = [Box(0.0, frame.y(level.mean), frame.width, frame.y(level.mean))] if level else []
    return [*across, *(Box(x, 0.0, x, frame.height) for x in retrained)]


def _spreads(frame: Frame, shown: Sequence[Point]) -> list[alt.Chart]:
    """A bar of one standard deviation up and down."""
    return _rules(frame, [_bar(frame, point) for point in shown if point.gap.std], Stroke("#7FB8D8", 2.0))


def _bar(frame: Frame, point: Point) -> Box:
    x, std = frame.x(point.seconds), point.gap.std or 0.0
    return Box(x, frame.y(point.gap.mean + std), x, frame.y(point.gap.mean - std))


def _marks(frame: Frame, shown: Sequence[Point]) -> list[alt.Chart]:
    """The points on visible scales, and retraining as a diamond."""
    made: list[alt.Chart] = []
    for chosen, shape, colour, size in ((False, "circle", BLUE, 90), (True, "diamond", GREEN, 170)):
        rows = [{"s": p.seconds, "g": p.gap.mean} for p in shown if (p.label == REFERENCE) == chosen]
        chart = alt.Chart(inline(rows)).mark_point(shape=shape, filled=True, color=colour, size=size, opacity=1)
        made.append(chart.encode(x=_time_axis(frame), y=frame.gaps.axis()))
    return made


def _time_axis(frame: Frame) -> alt.X:
    ticks = _log_ticks(*frame.seconds)
    axis = alt.Axis(title="run time (seconds, log scale)", values=ticks, format="~r")
    return alt.X("s:Q", axis=axis, scale=alt.Scale(type="log", domain=list(frame.seconds), nice=False))


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the range, with 2 and 5 of each where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = len(exponents) <= 4
    ticks = [round(factor * 10.0**e, 12) for e in exponents for factor in ((1, 2, 5) if fine else (1,))]
    return [tick for tick in ticks if low <= tick <= high]


@dataclass(frozen=True)
class Words:
    """A label and the place where it stands."""

    text: str
    box: Box


def _labels(frame: Frame, shown: Sequence[Point], level: Cell | None, nothing: str) -> list[alt.Chart]:
    """Labels beside their points where nothing else is, with a thin line to those that had to move away."""
    taken = [box for point in shown for box in _around(frame, point)]
    taken += [line.grown(1) for line in _guide_lines(frame, shown, level)]
    above = [_level_words(frame, level, nothing, taken)] if level else []
    taken += [words.box for words in above]
    placed: dict[str, Words] = {}
    for point in sorted(shown, key=lambda p: (p.label != REFERENCE, p.seconds)):
        placed[point.label] = Words(point.words(frame.signs), _place(frame, point, taken))
        taken.append(placed[point.label].box)
    leaders = [line for point in shown if (line := _leader(frame, point, placed[point.label].box))]
    reference = [words for label, words in placed.items() if label == REFERENCE]
    others = [words for label, words in placed.items() if label != REFERENCE]
    return [
        *_rules(frame, leaders, Stroke(GREY, 0.8)),
        *_texts(frame, above, GREY),
        *_texts(frame, others, INK),
        *_texts(frame, reference, GREEN, bold=True),
    ]


def _around(frame: Frame, point: Point) -> list[Box]:
    """The place that a point and its bar take."""
    x, y = frame.x(point.seconds), frame.y(point.gap.mean)
    bar = _bar(frame, point)
    return [Box(x - 6, y - 6, x + 6, y + 6), Box(x - 2, bar.top, x + 2, bar.bottom)]


TEXT_HEIGHT = 15.0


def text_width(text: str) -> float:
    """An upper estimate of the width of 12-pixel text."""
    return 7.0 * len(text) + 2


def _level_words(frame: Frame, level: Cell, words: str, taken: Sequence[Box]) -> Words:
    """The label of the level of the original, above it where it overlaps least."""
    top = frame.y(level.mean) - TEXT_HEIGHT - 2
    wide = text_width(words)
    lefts = [4 + part / 10 * max(frame.width - wide - 8, 0.0) for part in range(11)]
    boxes = [Box(left, top, left + wide, top + TEXT_HEIGHT) for left in lefts]
    return Words(words, min(boxes, key=lambda box: sum(box.overlap(other) for other in taken)))


def _place(frame: Frame, point: Point, taken: Sequence[Box]) -> Box:
    """The nearest place round a point where its label overlaps nothing; else the one that overlaps least."""
    x, y = frame.x(point.seconds), frame.y(point.gap.mean)
    wide, high = text_width(point.words(frame.signs)), TEXT_HEIGHT
    candidates: list[Box] = []
    for distance in range(8, 120, 8):
        for across, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)):
            left = x + across * distance - {1: 0.0, 0: wide / 2, -1: wide}[across]
            top = y + down * (distance + high / 2) - high / 2
            candidates.append(Box(left, top, left + wide, top + high))
    inside = [box for box in candidates if frame.holds(box)]
    return min(inside or candidates, key=lambda box: sum(box.overlap(other) for other in taken))


def _leader(frame: Frame, point: Point, box: Box) -> Box | None:
    """The line from a point to a label that is far from it."""
    x, y = frame.x(point.seconds), frame.y(point.gap.mean)
    near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    return Box(x, y, near_x, near_y) if math.hypot(near_x - x, near_y - y) >= 14 else None


def _texts(frame: Frame, words: Sequence[Words], colour: str, *, bold: bool = False) -> list[alt.Chart]:
    places = [(found.box.left + 1, (found.box.top + found.box.bottom) / 2) for found in words]
    rows = [frame.at(*place) | {"words": found.text} for place, found in zip(places, words, strict=True)]
    weight = "bold" if bold else "normal"
    mark = alt.Chart(inline(rows)).mark_text(align="left", color=colour, fontSize=12, fontWeight=weight)
    return [mark.encode(x=_time_axis(frame), y=frame.gaps.axis(), text="words:N")] if rows else []


@dataclass(frozen=True)
class Stroke:
    """How a straight line is drawn."""

    colour: str
    width: float
    dash: tuple[int, int] = (1, 0)


def _rules(frame: Frame, lines: Sequence[Box], stroke: Stroke) -> list[alt.Chart]:
    """Straight lines, each from the left top to the right bottom of its box."""
    rows: list[dict[str, float]] = []
    for line in lines:
        end = frame.at(line.right, line.bottom)
        rows.append(frame.at(line.left, line.top) | {"s2": end["s"], "g2": end["g"]})
    chart = alt.Chart(inline(rows))
    mark = chart.mark_rule(color=stroke.colour, strokeWidth=stroke.width, strokeDash=list(stroke.dash))
    return [mark.encode(x=_time_axis(frame), y=frame.gaps.axis(), x2="s2:Q", y2="g2:Q")] if rows else []
