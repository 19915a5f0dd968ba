"""Small charts over runs: points on a plane, for a template to draw as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["HEIGHT", "WIDTH", "Bar", "Chart", "Line", "bars", "lines"]

WIDTH, HEIGHT = 640, 180
LEFT, BOTTOM, TOP = 96, 10, 14
"""Room for the labels of the axis, and around the plane; in pixels."""

Values = Sequence[float | None]
Words = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """A rectangle, in pixels, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    series: int
    label: str


@dataclass(frozen=True)
class Line:
    """A series: its points in pixels, each with what it stands for."""

    name: str
    series: int
    points: Sequence[tuple[float, float, str]]

    @property
    def path(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in self.points)


@dataclass(frozen=True)
class Chart:
    """What is drawn, and the same as a table for those who do not see it."""

    title: str
    unit: str
    names: Sequence[str]
    series: Mapping[str, Sequence[str]]
    ticks: Sequence[tuple[float, str]]
    bars: Sequence[Bar] = field(default_factory=list)
    lines: Sequence[Line] = field(default_factory=list)


def bars(
    title: str, unit: str, names: Sequence[str], series: Mapping[str, Values], words: Words
) -> Chart:
    """Return a chart of stacked bars, one for each name."""
    totals = [sum(v or 0.0 for v in column) for column in zip(*series.values(), strict=True)]
    top = max(totals) or 1.0
    step = (WIDTH - LEFT) / len(names)
    found = []
    for column, name in enumerate(names):
        base = 0.0
        for number, (what, values) in enumerate(series.items()):
            value = values[column] or 0.0
            height = value / top * (HEIGHT - BOTTOM - TOP)
            y = _y(base, 0.0, top) - height
            label = f"{name}: {what} {words(value)}"
            found.append(
                Bar(LEFT + column * step + step * 0.15, y, step * 0.7, height, number, label)
            )
            base += value
    return Chart(title, unit, names, _told(series, words), _ticks(0.0, top, words), bars=found)


def lines(
    title: str,
    unit: str,
    names: Sequence[str],
    series: Mapping[str, Values],
    words: Words,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Chart:
    """Return a chart of one line for each series; the axis spans the values unless told."""
    known = [value for values in series.values() for value in values if value is not None]
    low = min(known, default=0.0) if low is None else low
    high = max(known, default=1.0) if high is None else high
    if low == high:
        low, high = low - 1.0, high + 1.0
    step = (WIDTH - LEFT) / len(names)
    found = [
        Line(
            what,
            number,
            [
                (
                    LEFT + (column + 0.5) * step,
                    _y(value, low, high),
                    f"{name}: {what} {words(value)}",
                )
                for column, (name, value) in enumerate(zip(names, values, strict=True))
                if value is not None
            ],
        )
        for number, (what, values) in enumerate(series.items())
    ]
    return Chart(title, unit, names, _told(series, words), _ticks(low, high, words), lines=found)


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _ticks(low: float, high: float, words: Words) -> list[tuple[float, str]]:
    values = (low, (low + high) / 2, high)
    return [(_y(value, low, high), words(value)) for value in values]


def _told(series: Mapping[str, Values], words: Words) -> dict[str, list[str]]:
    return {
        name: ["unknown" if value is None else words(value) for value in values]
        for name, values in series.items()
    }
