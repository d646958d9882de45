"""The plots of a study as PNG files, by matplotlib (extra `bench`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ipt.errors import IptError
from ipt.evaluation.study.geometry import Matrix, by_family

# Warm colours for tuning in the subspace, grey for methods without tuning; markers distinguish them without colours.
STYLES: dict[str, dict[str, Any]] = {
    "class names": {"marker": "|", "color": "#9aa0a6", "s": 60},
    "nearest neighbours": {"marker": "x", "color": "#9aa0a6", "s": 26},
    "logistic regression": {"marker": "o", "color": "#5f6368", "s": 36, "facecolor": "none"},
    "SetFit": {"marker": "s", "color": "#188038", "s": 26, "facecolor": "none"},
    "random": {"marker": "v", "color": "#8e24aa", "s": 34, "facecolor": "none"},
    "start": {"marker": "o", "color": "#f29900", "s": 34, "facecolor": "none"},
    "PT": {"marker": "D", "color": "#1a73e8", "s": 34, "facecolor": "none"},
    "IST": {"marker": "o", "color": "#d93025", "s": 30},
    "IST then PT": {"marker": "^", "color": "#f29900", "s": 34},
}
TUNED = ("random", "PT", "IST", "IST then PT")
SPLITS = {"seen": "#1a73e8", "unseen": "#d93025"}
FAMILIES = ("#1a73e8", "#d93025", "#188038", "#f29900", "#8e24aa", "#00838f", "#6d4c41", "#c2185b", "#9e9d24")
OTHER_FAMILIES = "#9aa0a6"


def check_installed() -> None:
    """Raise `IptError` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise IptError("the plots need matplotlib: run `pip install 'intrinsic-prompt-tuning[bench]'`")


def plot_e_rel(path: Path, series: Mapping[str, Mapping[int, tuple[float, float | None]]]) -> None:
    """Plot E_rel against D: for each split, mean and standard deviation over the draws."""
    figure, axes = _figure(6.0, 3.8)
    for split, points in series.items():
        dims = sorted(points)
        means, spreads = _columns(points[dim] for dim in dims)
        axes.errorbar(dims, means, yerr=spreads, color=SPLITS[split], marker="o", ms=5, lw=1.6, capsize=3, label=split)
    axes.axhline(1.0, color="#5f6368", lw=1, ls="--")
    axes.annotate("as good as prompt tuning", (0.99, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                  fontsize=8, color="#5f6368", xytext=(0, 2), textcoords="offset points")  # fmt: skip
    _log_ticks(axes, sorted({dim for points in series.values() for dim in points}))
    axes.set(xlabel="dimension D of the subspace", ylabel="E_rel")
    axes.legend(title="tasks", frameon=False, loc="best")
    _save(figure, path)


def plot_tasks(path: Path, means: Mapping[str, Mapping[str, float]], families: Mapping[str, str]) -> None:
    """Plot the accuracy, in per cent, of each method (outer key) on each task (inner key), grouped by family."""
    tasks = sorted({task for of_method in means.values() for task in of_method}, key=lambda t: (families[t], t))
    figure, axes = _figure(7.2, 1.5 + 0.3 * len(tasks))
    rows = {task: row for row, task in enumerate(reversed(tasks))}
    for task, row in rows.items():
        scores = [of_method[task] for of_method in means.values() if task in of_method]
        axes.plot([min(scores), max(scores)], [row, row], color="#eef0f2", lw=13, solid_capstyle="round", zorder=0)
    for method in sorted(means, key=lambda name: name == "IST"):  # drawn last, on top
        style = {"facecolor": STYLES[method]["color"], **STYLES[method]}
        if style["marker"] in "|x":
            style.pop("facecolor")
        of_method = means[method]
        edge = style.pop("color")
        face = style.pop("facecolor", None)
        colors = {"color": edge} if face is None else {"edgecolors": edge, "facecolors": face}
        # Tuned methods above the others, as their scores may be equal.
        heights = [rows[task] + (0.17 if method in TUNED else -0.17) for task in of_method]
        axes.scatter(list(of_method.values()), heights, label=method, lw=1.4, **colors, **style)
    for upper, lower in pairwise(tasks):
        if families[upper] != families[lower]:
            axes.axhline(rows[upper] - 0.5, color="#dadce0", lw=0.8)
    axes.set_yticks(list(rows.values()), list(rows), fontsize=8)
    axes.set_ylim(-0.7, len(tasks) - 0.3)
    axes.set_xlabel("accuracy on test rows, %")
    axes.grid(axis="x", color="#f1f3f4")
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False, fontsize=8, handletextpad=0.2)
    _save(figure, path)


def plot_stability(path: Path, spreads: Mapping[str, Sequence[float]]) -> None:
    """Plot the standard deviation over the draws, in points of accuracy: for each method, one value per task."""
    figure, axes = _figure(6.4, 1.3 + 0.34 * len(spreads))
    names = sorted(spreads, key=lambda name: sorted(spreads[name])[len(spreads[name]) // 2], reverse=True)
    boxes = axes.boxplot([list(spreads[name]) for name in names], orientation="horizontal", widths=0.55,
                         showfliers=False, patch_artist=True, medianprops={"color": "#202124", "lw": 1.6})  # fmt: skip
    for box, name in zip(boxes["boxes"], names, strict=True):
        box.set(facecolor=STYLES[name]["color"], alpha=0.25, edgecolor=STYLES[name]["color"])
    for row, name in enumerate(names, start=1):
        axes.scatter(spreads[name], [row] * len(spreads[name]), s=9, color=STYLES[name]["color"], alpha=0.7, zorder=3)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set_xlim(left=0)
    axes.set_xlabel("standard deviation over draws of examples, points (one dot per task)")
    axes.grid(axis="x", color="#f1f3f4")
    axes.set_axisbelow(True)
    _save(figure, path)


def plot_curve(path: Path, points: Mapping[str, Mapping[int, tuple[float, float | None]]]) -> None:
    """Plot accuracy, in per cent, against examples per label: mean and standard deviation over the draws."""
    figure, axes = _figure(6.0, 3.8)
    for method, of_method in points.items():
        counts = sorted(of_method)
        means, spreads = _columns(of_method[count] for count in counts)
        color = STYLES[method]["color"]
        axes.errorbar(counts, means, yerr=spreads, color=color, marker="o", ms=5, lw=1.6, capsize=3, label=method)
    _log_ticks(axes, sorted({count for of_method in points.values() for count in of_method}))
    axes.set(xlabel="examples per label", ylabel="accuracy, mean over tasks, %")
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def plot_map(path: Path, projected: Matrix, shares: Matrix, names: Sequence[str], families: Sequence[str]) -> None:
    """Plot task vectors on their first two principal components [N, 2], coloured by family."""
    figure, axes = _figure(7.2, 5.2)
    colors = _family_colors(families)
    for family, color in colors.items():
        members = [task for task, name in enumerate(families) if colors.get(name, OTHER_FAMILIES) == color]
        axes.scatter(
            projected[members, 0],
            projected[members, 1],
            s=34,
            color=color,
            alpha=0.8,
            lw=0,
            label=f"{family} ({len(members)})",
        )
    if len(names) <= 30:
        for name, point in zip(names, projected, strict=True):
            axes.annotate(name, point, xytext=(4, 3), textcoords="offset points", fontsize=7, color="#5f6368")
    first, second = (
        f"principal component {n} ({share:.0%} of the variance)" for n, share in enumerate(shares, start=1)
    )
    axes.set(xlabel=first, ylabel=second)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="family (tasks)")
    _save(figure, path)


def plot_similarities(path: Path, cosines: Matrix, names: Sequence[str], families: Sequence[str]) -> None:
    """Plot the cosines [N, N] of task vectors, grouped by family, with the families' colours at the edges."""
    from matplotlib.patches import Rectangle

    order = by_family(list(families))
    size = max(5.0, min(9.0, 2.5 + 0.14 * len(names)))
    figure, axes = _figure(size + 1.2, size)
    image = axes.imshow(cosines[order][:, order], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    colors = _family_colors(families)
    width = len(names) / 45
    start = 0
    for task in range(1, len(order) + 1):
        if task < len(order) and families[order[task]] == families[order[start]]:
            continue
        family = families[order[start]]
        color = colors.get(family, OTHER_FAMILIES)
        for corner, across, down in (
            ((start - 0.5, -0.5 - width), task - start, width),
            ((-0.5 - width, start - 0.5), width, task - start),
        ):
            axes.add_patch(Rectangle(corner, across, down, color=color, clip_on=False, lw=0))
        if len(names) > 40:
            if task - start >= len(names) / 40:
                axes.text(-0.5 - 1.5 * width, (start + task - 1) / 2, family, ha="right", va="center", fontsize=9)
            axes.axhline(start - 0.5, color="white", lw=0.8)
            axes.axvline(start - 0.5, color="white", lw=0.8)
        start = task
    axes.set_xticks([])
    axes.set_yticks([])
    if len(names) <= 40:
        for row, task in enumerate(order):
            axes.text(-0.5 - 1.5 * width, row, names[task], ha="right", va="center", fontsize=7)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.6, label="cosine of the task vectors")
    _save(figure, path)


def _columns(points: Iterable[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    """Return means and standard deviations; 0, which shows no error bar, for a single draw."""
    pairs = list(points)
    return [mean for mean, _ in pairs], [deviation or 0.0 for _, deviation in pairs]


def _family_colors(families: Sequence[str]) -> dict[str, str]:
    """Return a colour for each of the largest families, and one for all other families if there are any."""
    ordered = list(dict.fromkeys(families[task] for task in by_family(list(families))))
    colors = dict(zip(ordered, FAMILIES, strict=False))
    return colors if len(ordered) <= len(FAMILIES) else colors | {"others": OTHER_FAMILIES}


def _log_ticks(axes: Any, values: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color="#f1f3f4")
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Not by pyplot, which keeps global figures and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without metadata the same study gives the same bytes.
    figure.savefig(path, dpi=150, metadata={"Software": None}, bbox_inches="tight")
