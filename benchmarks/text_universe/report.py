"""docs/text-universe.md: what was measured, as two tables and a plot of E_rel against the intrinsic dimension."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.text_universe import pipeline
from benchmarks.text_universe.tasks import GROUPS, LABELLED, PREFIX, UniverseTask, group_of
from ipt.evaluation.measurements import Measurement, e_rel
from ipt.evaluation.protocol import PT_LEARNING_RATES

Found = Mapping[str, Sequence[Measurement]]
"""The measurements in each subspace, named `direct 10`, `autoencoder 10` and so on, and in none (`WITHOUT`)."""
WITHOUT = "without a subspace"
METHODS_WITHOUT = ("words", "no prompt", "PT")
WAYS = {
    "direct": ("IST, direct fit", "direct", "IST"),
    "autoencoder": ("IST, auto-encoder", "autoencoder", "IST"),
    "random": ("random subspace", "direct", "random"),
}
"""How each is called, beside which fit it was measured, and as what."""
PER_CENT = "{:.0f}".format
RATIO = "{:.2f}".format


class Scores:
    """Mean scores and ratios to PT, by task or over a group of tasks."""

    def __init__(self, found: Found, dims: Sequence[int]) -> None:
        self.dims = dims
        self._found = found
        self.tasks = {one.task: group_of(UniverseTask(tuple(one.task.split("_")))) for one in found[WITHOUT]}

    def of(self, task: str, method: str, subspace: str = WITHOUT) -> float:
        """In per cent, the mean over the draws."""
        among = self._found[subspace]
        return 100 * statistics.mean(one.score for one in among if (one.task, one.method) == (task, method))

    def relative(self, way: str, dim: int) -> dict[str, float]:
        """E_rel by task; of the random subspace, the same ratio of its scores."""
        _, name, method = WAYS[way]
        tuned = [replace(one, method="IST") for one in self._found[f"{name} {dim}"] if one.method == method]
        return e_rel([*tuned, *(one for one in self._found[WITHOUT] if one.method == "PT")])

    def relative_of_group(self, way: str, dim: int, group: str) -> float:
        ratios = self.relative(way, dim)
        return statistics.mean(ratios[task] for task in self.of_group(group) if task in ratios)

    def of_group(self, group: str) -> list[str]:
        return [task for task, of in self.tasks.items() if of == group]


def write(path: Path, origin: str, parameters: int, scores: Scores) -> None:
    """The page at `path`, and the plot beside it."""
    plot = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(scores, plot)
    path.write_text(page(origin, parameters, scores, plot.name), encoding="utf-8")


def page(origin: str, parameters: int, scores: Scores, plot: str) -> str:
    """The page in Markdown."""
    shown = 50 if 50 in scores.dims else scores.dims[-1]
    asked, prompts = pipeline.OPTIONS, pipeline.PROMPTS.hyperparameters
    rates = ", ".join(map(str, PT_LEARNING_RATES["seq2seq"]))
    return f"""# Text to text: a universe of list tasks

{origin}

No language model is needed for this page: a BART of {parameters / 1e6:.2f} million parameters was pre-trained on list
tasks over sixteen letters, told apart by words in front of the input (`reverse upper . . . . . . b d a` is `A D B`),
all tasks of this page among them. Then it was frozen, and the words were taken away. A word of order and a word of
change make a task (`reverse_upper`); {len(LABELLED)} tasks have labels. Subspaces were found from the *seen* tasks
alone, of {pipeline.FIT_ROWS // 2} rows each. Of *unseen pairs* both words stand in seen tasks; of *unseen words* no
task is seen. Everything is measured on {pipeline.TEST_ROWS} other rows, after tuning on {2 * asked.per_label} others
({asked.per_label} of each label), of one draw: exact match, or accuracy for labels, in per cent.

*Words*: the words in front, no tuning; the ceiling. *No prompt*, *zero vector*: nothing tuned either. *PT*: plain
prompt tuning, {PREFIX} positions, {asked.pt_steps} steps at the best of the rates {rates} on held-back examples. *IST*:
{asked.hyperparameters.steps} steps at {asked.hyperparameters.learning_rate} in the subspace; *random*: the same in an
untrained decoder. E_rel is IST divided by PT, the mean over the tasks. The auto-encoder, the paper's way, learned from
prompts of {prompts.steps} steps at {prompts.learning_rate}.

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
    """Mean score, and behind it the mean E_rel."""
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
            told = ["–" if ratio is None else RATIO(ratio) for ratio in ratios]
            rows.append([task, group, *map(PER_CENT, [*cells, scores.of(task, "PT")]), *told])
    methods = ("words", "no prompt", "zero vector", "random", "IST", "PT")
    return _table(["task", "", *methods, *(f"E_rel, D = {dim}" for dim in scores.dims)], rows)


def _title(scores: Scores, group: str) -> str:
    return f"{group} ({len(scores.of_group(group))})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def draw(scores: Scores, path: Path) -> None:
    """E_rel against D: a panel for each group, a line for each way."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    # The same numbers give the same file.
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
