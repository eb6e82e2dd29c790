"""A page with a chart for each measure of the versions of a run: one HTML file, no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, GAP = 640, 160, 4


def write(path: Path, title: str, versions: Sequence[int], measures: Mapping[str, Sequence[float]]) -> None:
    """`measures` has the name of each chart, with its unit, and one value for each version."""
    charts = "\n".join(_chart(name, versions, values) for name, values in measures.items())
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>body{font:14px sans-serif;margin:2em;max-width:700px}rect{fill:#4a7bb5}text{font-size:11px}</style>"
        f"<h1>{escape(title)}</h1>\n{charts}\n"
    )


def _chart(name: str, versions: Sequence[int], values: Sequence[float]) -> str:
    top = max(values, default=0) or 1
    step = WIDTH / max(len(values), 1)
    bars = []
    for place, (version, value) in enumerate(zip(versions, values, strict=True)):
        height = value / top * HEIGHT
        x, y = place * step, HEIGHT - height + 16
        bars.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(step - GAP, 1):.1f}" height="{height:.1f}"/>'
            f'<text x="{x:.1f}" y="{y - 3:.1f}">{value:,.4g}</text><text x="{x:.1f}" y="{HEIGHT + 30}">{version}</text>'
        )
    view = f"0 0 {WIDTH} {HEIGHT + 36}"
    return f'<h2>{escape(name)}</h2><svg viewBox="{view}" role="img" aria-label="{escape(name)}">{"".join(bars)}</svg>'
