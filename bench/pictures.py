"""Draws what the bench found as bars: python -m bench.pictures build/bench.json docs/images."""

import argparse
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WIDTH, _LEFT, _BAR, _GAP, _TOP = 720, 130, 22, 8, 56
_COLOURS = {"plain": "#9aa0a6", "strong": "#5b8def", "vizfetch": "#1e8e3e", "vizfetch, folder": "#81c995"}
_TITLES = {"cold": "The list of 11 packages, nothing cached", "warm": "The same list again, caches full"}
_SHOWN = {"CPU of all processes": "CPU seconds of all processes", "wall time": "seconds until all was there"}


@dataclass(frozen=True)
class Bar:
    """One way's figure, with the range it was measured in."""

    name: str
    median: float
    low: float
    high: float


def main() -> None:
    """Draw one picture for each part that compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    draw_all(json.loads(options.results.read_text()), options.directory)


def draw_all(document: Mapping[str, Any], directory: Path) -> None:
    """Write ``bench-PART.svg`` for each part of the results that compares vizfetch with others."""
    directory.mkdir(parents=True, exist_ok=True)
    for part, title in _TITLES.items():
        figures = document["parts"].get(part, {}).get("figures", [])
        groups = {told: list(_bars(figures, shown)) for shown, told in _SHOWN.items()}
        if all(len(bars) > 1 for bars in groups.values()):
            (directory / f"bench-{part}.svg").write_text(_picture(title, groups))


def _bars(figures: Sequence[Mapping[str, Any]], shown: str) -> Iterator[Bar]:
    for figure in figures:
        name, _, what = figure["name"].partition(": ")
        if what == shown and name in _COLOURS:
            yield Bar(name, figure["median"], figure["min"], figure["max"])


def _picture(title: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    parts, y = [_text(16, 28, title, 16, bold=True)], _TOP
    for told, bars in groups.items():
        parts.append(_text(16, y + 12, told, 13))
        y += _BAR
        longest = max(bar.high for bar in bars)
        for bar in bars:
            parts += _bar(bar, y, (_WIDTH - _LEFT - 80) / longest)
            y += _BAR + _GAP
        y += 2 * _GAP
    size = f'width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
    paper = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{paper}{"".join(parts)}</svg>\n'


def _bar(bar: Bar, y: int, scale: float) -> Iterator[str]:
    middle, width = y + _BAR // 2, bar.median * scale
    yield _text(16, middle + 4, bar.name, 13)
    yield f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[bar.name]}"/>'
    if bar.high > bar.low:
        low, high = _LEFT + bar.low * scale, _LEFT + bar.high * scale
        yield f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#202124"/>'
    yield _text(_LEFT + bar.high * scale + 8, middle + 4, f"{bar.median:.1f} s", 13)


def _text(x: float, y: float, text: str, size: int, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" font-family="sans-serif" font-size="{size}"{weight}>{html.escape(text)}</text>'


if __name__ == "__main__":
    main()
