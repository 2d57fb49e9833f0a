"""The results as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tables import FILES, OTHERS, OURS, PURPOSES, Result
from .work import GATES, WORKS

_COLOURS = {
    "ours": "#0b6e4f",
    "tf2onnx": "#c1440e",
    "OpenVINO": "#3b6fb6",
    "PyTorch": "#8a5fb0",
    "Keras tf.function, XLA": "#d19a1f",
    "LiteRT": "#7a7a7a",
}


def draw(results: Sequence[Result], folder: Path) -> list[str]:
    """Write the pictures as SVG; returns their names."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(exist_ok=True)
    made = []
    for name, picture in (("peers-files", _files), ("peers-sgemm", _shares)):
        figure = picture(results)
        if figure is not None:
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            made.append(f"{name}.svg")
    return made


def _files(results: Sequence[Result]) -> Any:
    """One row: the time of tf2onnx's file divided by ours, each work."""
    import matplotlib.pyplot as plt

    chosen = [
        r
        for r in results
        if r.cell.batch == 1
        and r.cell.steps == max(steps for _, steps in WORKS[r.cell.work].shapes)
        and FILES[0] in r.timings
    ]
    if not chosen:
        return None
    chosen.sort(key=lambda r: r.timings[FILES[0]].ratio)
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(chosen) + 0.8))
    ratios = [r.timings[FILES[0]].ratio for r in chosen]
    low = [r.timings[FILES[0]].ratio - r.timings[FILES[0]].low for r in chosen]
    high = [r.timings[FILES[0]].high - r.timings[FILES[0]].ratio for r in chosen]
    titles = [WORKS[r.cell.work].title.replace("`", "") for r in chosen]
    axes.barh(titles, ratios, xerr=[low, high], color=_COLOURS["ours"], ecolor="#555555")
    axes.axvline(1.0, color="#333333", linewidth=0.8)
    axes.set_xlabel("time of tf2onnx's file divided by ours, one row")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _shares(results: Sequence[Result]) -> Any:
    """Units 128, the longest chunk: share of the sgemm rate over the batch size."""
    import matplotlib.pyplot as plt

    kinds = [kind for kind in GATES if any(r.cell.work == f"{kind} 128" for r in results)]
    if not kinds:
        return None
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(3.2 * len(kinds) + 1.6, 3), sharey=True, layout="constrained"
    )
    for axes, kind in zip(panels if len(kinds) > 1 else [panels], kinds, strict=True):
        mine = [r for r in results if r.cell.work == f"{kind} 128" and r.cell.steps > 1]
        mine.sort(key=lambda r: r.cell.batch)
        for name in ("ours", FILES[0], *OTHERS):
            if name in _COLOURS:
                points = [(r.cell.batch, _share(r, name)) for r in mine]
                points = [(batch, share) for batch, share in points if share is not None]
                x, y = [p[0] for p in points], [p[1] for p in points]
                axes.plot(x, y, marker="o", markersize=3, label=name, color=_COLOURS[name])
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 8, 32, 128], ["1", "8", "32", "128"])
        axes.set_title(f"{kind} 128, 100 steps", fontsize=9)
        axes.set_xlabel("batch")
        axes.spines[["top", "right"]].set_visible(False)
    first = panels[0] if len(kinds) > 1 else panels
    first.set_ylabel("share of the sgemm rate")
    first.set_ylim(0, 1.05)
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _share(result: Result, name: str) -> float | None:
    if name == "ours":
        forms = [result.shares[n] for n in (OURS, *PURPOSES) if n in result.shares]
        return max(forms, default=None)
    return result.shares.get(name)
