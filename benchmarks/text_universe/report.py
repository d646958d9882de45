"""docs/text-universe.md: tables of the measurements, and a plot of E_rel against the intrinsic dimension."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.text_universe import pipeline
from benchmarks.text_universe.tasks import GROUPS, LABELLED, PREFIX, UniverseTask, group_of
from ipt.evaluation.measurements import Measurement, e_rel
from ipt.evaluation.protocol import PT_LEARNING_RATES

Measured = Mapping[str, Sequence[Measurement]]
"""Measurements by subspace, named `direct 10`, `autoencoder 10` and so on, and without one (`WITHOUT`)."""
WITHOUT = "without a subspace"
METHODS_WITHOUT = ("words", "no prompt", "PT")
WAYS = {
    "direct": ("IST, direct fit", "direct", "IST"),
    "autoencoder": ("IST, auto-encoder", "autoencoder", "IST"),
    "random": ("random subspace", "direct", "random"),
}
"""Title of each way, the fit whose measurements contain it, and the method there."""
PER_CENT = "{:.0f}".format
RATIO = "{:.2f}".format


class Scores:
    """Mean scores and ratios to PT, by task and by group of tasks."""

    def __init__(self, measured: Measured, dims: Sequence[int]) -> None:
        self.dims = dims
        self._measured = measured
        self.tasks = {each.task: group_of(UniverseTask(tuple(each.task.split("_")))) for each in measured[WITHOUT]}

    def of(self, task: str, method: str, subspace: str = WITHOUT) -> float:
        """Return the mean score over the draws, in per cent."""
        measurements = self._measured[subspace]
        return 100 * statistics.mean(each.score for each in measurements if (each.task, each.method) == (task, method))

    def relative(self, way: str, dim: int) -> dict[str, float]:
        """Return E_rel by task, or the same ratio for the random subspace."""
        _, name, method = WAYS[way]
        tuned = [replace(each, method="IST") for each in self._measured[f"{name} {dim}"] if each.method == method]
        return e_rel([*tuned, *(each for each in self._measured[WITHOUT] if each.method == "PT")])

    def relative_of_group(self, way: str, dim: int, group: str) -> float:
        ratios = self.relative(way, dim)
        return statistics.mean(ratios[task] for task in self.of_group(group) if task in ratios)

    def of_group(self, group: str) -> list[str]:
        return [task for task, of in self.tasks.items() if of == group]


def write(path: Path, origin: str, parameters: int, scores: Scores) -> None:
    """Write the page to `path`, and the plot next to it."""
    plot = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(scores, plot)
    path.write_text(page(origin, parameters, scores, plot.name), encoding="utf-8")


def page(origin: str, parameters: int, scores: Scores, plot: str) -> str:
    """Return the page in Markdown."""
    shown = 50 if 50 in scores.dims else scores.dims[-1]
    options, prompts = pipeline.OPTIONS, pipeline.PROMPTS.hyperparameters
    rates = ", ".join(map(str, PT_LEARNING_RATES["seq2seq"]))
    return f"""# Text to text: a universe of list tasks

{origin}

This page needs no downloaded language model: a BART of {parameters / 1e6:.2f} million parameters was pre-trained on
list tasks over sixteen letters, all tasks of this page included, with words in front of the input that describe the
task (`reverse upper . . . . . . b d a` is `A D B`). Then it was frozen, and the words were removed from the inputs. An
order word and a change word make a task (`reverse_upper`); {len(LABELLED)} tasks have labels. Subspaces were fitted
only on the *seen* tasks, with {pipeline.FIT_ROWS // 2} rows each. Both words of an *unseen pair* occur in seen tasks;
an *unseen word* occurs in no seen task. All scores are measured on {pipeline.TEST_ROWS} other rows after tuning on
{2 * options.per_label} further rows ({options.per_label} per label), with one draw: exact match, or accuracy for
labels, in per cent.

*Words*: with the words in front, without tuning; the upper limit. *No prompt*, *zero vector*: also without tuning.
*PT*: plain prompt tuning, {PREFIX} positions, {options.pt_steps} steps at the best of the learning rates {rates} on
held-back examples. *IST*: {options.hyperparameters.steps} steps at {options.hyperparameters.learning_rate} in the
subspace; *random*: the same in an untrained decoder. E_rel is IST divided by PT, averaged over the tasks. The
auto-encoder, as in the paper, was fitted on prompts tuned for {prompts.steps} steps at {prompts.learning_rate}.

![E_rel against the intrinsic dimension]({plot})

{_untuned(scores)}

Mean score, and E_rel in brackets:

{_by_dim(scores)}

Each task, with the subspace of the direct fit at D = {shown}:

{_by_task(scores, shown)}
"""


def _untuned(scores: Scores) -> str:
    rows = []
    for group in GROUPS:
        means = [
            statistics.mean(scores.of(task, method) for task in scores.of_group(group)) for method in METHODS_WITHOUT
        ]
        rows.append([_title(scores, group), *map(PER_CENT, means)])
    return _table(["tasks", *METHODS_WITHOUT], rows)


def _by_dim(scores: Scores) -> str:
    """Return a table of mean scores with mean E_rel in brackets."""
    rows = []
    for way, (title, name, method) in WAYS.items():
        for group in GROUPS:
            tasks = scores.of_group(group)
            cells = [
                f"{PER_CENT(statistics.mean(scores.of(task, method, f'{name} {dim}') for task in tasks))} "
                f"({RATIO(scores.relative_of_group(way, dim, group))})"
                for dim in scores.dims
            ]
            rows.append([title, _title(scores, group), *cells])
    return _table(["", "tasks", *(f"D = {dim}" for dim in scores.dims)], rows)


def _by_task(scores: Scores, shown: int) -> str:
    rows = []
    for group in GROUPS:
        for task in scores.of_group(group):
            cells = [scores.of(task, method) for method in ("words", "no prompt")]
            cells += [scores.of(task, method, f"direct {shown}") for method in ("zero vector", "random", "IST")]
            ratios = [scores.relative("direct", dim).get(task) for dim in scores.dims]
            cells_of_ratios = ["–" if ratio is None else RATIO(ratio) for ratio in ratios]
            rows.append([task, group, *map(PER_CENT, [*cells, scores.of(task, "PT")]), *cells_of_ratios])
    methods = ("words", "no prompt", "zero vector", "random", "IST", "PT")
    return _table(["task", "", *methods, *(f"E_rel, D = {dim}" for dim in scores.dims)], rows)


def _title(scores: Scores, group: str) -> str:
    return f"{group} ({len(scores.of_group(group))})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def draw(scores: Scores, path: Path) -> None:
    """Plot E_rel against D: a panel for each group, a line for each way."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    # The same numbers must give the same file.
    mpl.rcParams |= {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    figure, panels = plt.subplots(1, len(GROUPS), figsize=(9, 3), sharey=True, layout="constrained")
    for panel, group in zip(panels, GROUPS, strict=True):
        for way, (title, *_) in WAYS.items():
            ratios = [scores.relative_of_group(way, dim, group) for dim in scores.dims]
            panel.plot(scores.dims, ratios, marker="o", label=title)
        panel.axhline(1.0, color="grey", linewidth=0.8)
        panel.set(title=_title(scores, group), xlabel="D", xscale="log")
        panel.set_xticks(scores.dims, [str(dim) for dim in scores.dims], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("E_rel")
    panels[0].legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
