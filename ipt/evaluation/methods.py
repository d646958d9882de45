"""How good a subspace is: tuning in it against plain prompt tuning (E_rel) and against what needs no tuning.

Source: arXiv 2110.07867, section 4. Everything is measured on a task's test rows, which nothing was tuned on; what has
to be chosen (PT's learning rate) is chosen by the score on held-back examples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, Family
from ipt.data.examples import Example, check_examples, labels_of, names_of
from ipt.data.task_folder import FolderTask, few_shot, rows_hash
from ipt.errors import DatasetError, SubspaceError
from ipt.evaluation.baselines import WITHOUT_TUNING
from ipt.evaluation.setfit import setfit
from ipt.prediction.predictor import Predictor
from ipt.readout.readout import Embeddings, fit_linear, fit_readout
from ipt.subspace.full_prompt_space import full_prompt_space, word_prompts
from ipt.subspace.modules import SubspaceDecoder
from ipt.subspace.subspace import Subspace
from ipt.tuning.encoder_program import PROMPT_PENALTY
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, TuningJob
from ipt.tuning.text_scores import exactly_matches

METHODS = (
    *("class names", "logistic regression", "nearest neighbours", "SetFit"),
    *("PT", "random", "IST", "IST then PT"),
)
OF_BACKBONE = ("class names", "logistic regression", "nearest neighbours", "SetFit", "PT")
"""Those of the methods whose answers depend on the backbone and the prompt length, but not on the subspace."""
SLOW = ("SetFit", "PT", "random", "IST then PT")
"""Those of the methods that tune or train, but for the one that is measured."""
STARTS = ("IST from zero", "IST from the nearest task", "IST from a random vector")
"""IST that starts elsewhere than at the likeliest of the subspace's initial vectors."""
NAMES_LEFT_OUT = "readout on both, without the labels' names"
READOUTS: dict[str, float | None] = {
    "readout on prompted embeddings": None,
    NAMES_LEFT_OUT: 1.0,
    "readout on both": 1.0,
    "readout on both, even with the baseline": 0.5,
    "readout on both, leaning on the baseline": 1.0 / (1.0 + math.exp(PROMPT_PENALTY)),
}
"""Readouts behind the first start, untuned: the weight of the classifier on both embeddings, None for another one."""
PT_LEARNING_RATES: dict[Family, tuple[float, ...]] = {
    "encoder": (0.001, 0.003, 0.01),
    # No readout learns beside the prompt: at 0.003 most tasks are answered as badly as before.
    "seq2seq": (0.01, 0.03, 0.1),
    "causal": (0.01, 0.03, 0.1),
}
"""Where PT is at its best, as measured on MiniLM and on the backbone of `benchmarks.text_universe`."""
REVISION = 2
"""Raised when tuning or the readout changes, so that the same examples come to other answers: what was measured before
does not count beside what is measured after."""
REVISIONS = {"PT": 3, "IST then PT": 3}
"""Of methods that have changed by themselves: prompts are tuned to the last step (docs/decisions/0013)."""
BATCH_ROWS = 64


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how. PT has more steps, all of them, and several learning rates: E_rel is about PT at its
    best."""

    per_label: int = 16
    test_rows: int = 500
    """Most test rows of a task that are scored."""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    pt_steps: int = 200
    pt_learning_rates: tuple[float, ...] | None = None
    """Those of `PT_LEARNING_RATES` for the backbone's family when None."""


@dataclass(frozen=True)
class Measurement:
    """One method's accuracy, or exact match, on one task with one draw of examples."""

    task: str
    family: str
    seed: int
    method: str
    score: float
    seconds: float
    """Its share, where several were measured together."""
    detail: dict[str, float | int | str | None]
    device: str | None = None
    """On what kind of device, and in which precision."""
    rows: str | None = None
    """`rows_hash` of all rows that examples are drawn from and that are scored; None where that was not kept yet."""


class _Draw:
    """A task's examples, drawn by a seed, and the test rows that are scored."""

    def __init__(self, task: FolderTask, seed: int, options: EvaluationOptions, backbone: Backbone) -> None:
        self.device = f"{backbone.device.type}, {str(backbone.dtype).removeprefix('torch.')}"
        self.task = task
        self.rows = rows_hash(task.train, task.test)
        self.seed = seed
        self.examples = few_shot(task.train, options.per_label, seed)
        self.test = _at_most(task.test, options.test_rows, seed)
        self.texts = [row.input for row in self.test]

    def measured(
        self, method: str, answers: Sequence[str | None], seconds: float, detail: dict[str, float | int | str | None]
    ) -> Measurement:
        right = [exactly_matches(given or "", row.output) for given, row in zip(answers, self.test, strict=True)]
        score = sum(right) / len(self.test)
        task = self.task
        return Measurement(task.name, task.family, self.seed, method, score, seconds, detail, self.device, self.rows)


class Evaluation:
    """Measures one subspace: tasks' measurements with draws of examples, method by method."""

    def __init__(self, backbone: Backbone, subspace: Subspace, options: EvaluationOptions) -> None:
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace
        self.options = options
        self.pt_learning_rates = options.pt_learning_rates or PT_LEARNING_RATES[backbone.family]

    def identity(self, method: str) -> dict[str, object]:
        """All that makes a method's measurements comparable, as JSON keeps it."""
        described = asdict(self.options)
        del described["hyperparameters"]["seed"]
        described["pt_learning_rates"] = list(self.pt_learning_rates)
        return {"subspace": self.subspace.id, "revision": REVISIONS.get(method, REVISION), **described}

    def measure(self, task: FolderTask, seed: int, methods: Sequence[str]) -> Iterator[Measurement]:
        """`measure_together` for one task and draw."""
        return self.measure_together([(task, seed)], methods)

    def measure_together(
        self, pairs: Sequence[tuple[FolderTask, int]], methods: Sequence[str]
    ) -> Iterator[Measurement]:
        """These methods, on the examples of each task that are drawn by its seed; method by method, in that order.

        What the backbone's family cannot do is left out. Tuning jobs share an engine, which changes their numbers by
        rounding alone; the seconds of each are its share. With a single example of each label, IST on an encoder is
        its first start, untuned: there is nothing to tune by.

        Raises:
            DatasetError: a task cannot be tuned on, or has no test rows.
            IptError: a method needs a package that is not installed.
        """
        for task, _ in pairs:
            if not task.test:
                raise DatasetError(f"{task.name}: has no test rows to measure on")
        draws = [_Draw(task, seed, self.options, self.backbone) for task, seed in pairs]
        for method in methods:
            if self._tunes(method):
                yield from self._measure_tuned(method, draws)
            elif isinstance(self.backbone, EncoderBackbone):
                for draw in draws:
                    yield self._measure_untuned(self.backbone, method, draw)

    def _tunes(self, method: str) -> bool:
        if method == "IST" and self.options.per_label == 1:
            return self.backbone.family != "encoder"
        return method != "SetFit" and method not in WITHOUT_TUNING and method not in READOUTS

    def _measure_untuned(self, backbone: EncoderBackbone, method: str, draw: _Draw) -> Measurement:
        started = time.perf_counter()
        detail: dict[str, float | int | str | None] = {}
        answers: Sequence[str | None]
        if method == "SetFit":
            answers, detail["seconds"] = setfit(backbone, draw.examples, draw.texts, draw.seed)
        elif method in WITHOUT_TUNING:
            answers = WITHOUT_TUNING[method](backbone, draw.examples, draw.texts)
        else:
            # With one example nothing speaks for the prompted embeddings or against.
            weight = READOUTS.get(method, READOUTS["readout on both, leaning on the baseline"])
            named = method != NAMES_LEFT_OUT
            answers = first_start(backbone, self.subspace, draw.examples, draw.texts, weight, named)
        return draw.measured(method, answers, time.perf_counter() - started, detail)

    def _measure_tuned(self, method: str, draws: Sequence[_Draw]) -> Iterator[Measurement]:
        started = time.perf_counter()
        tuned = self._tuned(method, draws)
        share = (time.perf_counter() - started) / max(1, len(draws))
        for draw, (space, task) in zip(draws, tuned, strict=True):
            started = time.perf_counter()
            answers = self._answers(space, task, draw.texts)
            # In company, a task's own seconds are those of all.
            detail = task.metrics if len(draws) == 1 else task.metrics | {"seconds": None}
            yield draw.measured(method, answers, share + time.perf_counter() - started, detail)

    def _tuned(self, method: str, draws: Sequence[_Draw]) -> list[tuple[Subspace, AdaptedTask]]:
        """A method's space, and the task tuned in it, for each draw."""
        length = self.subspace.prompt_length
        seeds = sorted({draw.seed for draw in draws})
        if method == "IST" or method in STARTS:
            starts = None
            if method != "IST":
                of_seed = {seed: _starts(self.subspace, method, seed) for seed in seeds}
                starts = [of_seed[draw.seed] for draw in draws]
            return [(self.subspace, task) for task in self._tune(self.subspace, draws, starts)]
        if method == "random":
            found: dict[int, tuple[Subspace, AdaptedTask]] = {}
            for seed in seeds:
                own = [number for number, draw in enumerate(draws) if draw.seed == seed]
                space = random_subspace(self.backbone, self.subspace, seed)
                tasks = self._tune(space, [draws[number] for number in own])
                found |= {number: (space, task) for number, task in zip(own, tasks, strict=True)}
            return [found[number] for number in range(len(draws))]
        if method == "PT":
            words = {seed: word_prompts(self.backbone, length, seed=seed) for seed in seeds}
            starts = [words[draw.seed].flatten(1) for draw in draws]
        elif method == "IST then PT":
            vectors = torch.from_numpy(np.stack([task.head.vector for task in self._tune(self.subspace, draws)]))
            with torch.no_grad():
                prompts = self.subspace.decoder(vectors.to(self.backbone.device)).cpu()
            starts = [prompt[None].flatten(1) for prompt in prompts]
        else:
            raise ValueError(f"there is no method {method!r}")
        space = full_prompt_space(self.backbone, length, starts[0].view(1, length, -1))
        rates = [{"steps": self.options.pt_steps, "learning_rate": rate} for rate in self.pt_learning_rates]
        tuned = self._tune(space, draws, starts, rates, early_stopping=False)
        return [
            (space, replace(task, metrics=task.metrics | {"moved": task.moved_from(start.numpy())}))
            for task, start in zip(tuned, starts, strict=True)
        ]

    def _tune(
        self,
        space: Subspace,
        draws: Sequence[_Draw],
        starts: Sequence[Tensor] | None = None,
        changes: Sequence[dict[str, Any]] = ({},),
        *,
        early_stopping: bool = True,
    ) -> list[AdaptedTask]:
        """For each draw the best of the tasks that are tuned with these changes of its hyperparameters, in one engine.

        `starts` are each draw's initial vectors [K, D], where they are not the space's.
        """
        engine = TuningEngine(self.backbone, space)
        for number, draw in enumerate(draws):
            try:
                kind = check_examples(draw.examples, None, None)
            except DatasetError as error:
                raise DatasetError(f"{draw.task.name}: {error.message}") from None
            vectors = None if starts is None else starts[number].numpy()
            for change in changes:
                asked = replace(self.options.hyperparameters, seed=draw.seed, **change)
                name = str(len(engine.job_ids))
                engine.add(TuningJob(name, draw.examples, kind, None, asked, vectors, early_stopping))
        while not all(progress.done for progress in engine.step()):
            pass
        tuned = [engine.finish(name) for name in engine.job_ids]
        return [_best(tuned[first : first + len(changes)]) for first in range(0, len(tuned), len(changes))]

    def _answers(self, space: Subspace, task: AdaptedTask, texts: Sequence[str]) -> list[str | None]:
        predictor = Predictor(self.backbone, space)
        bound = predictor.bind(task.head)
        answers: list[str | None] = []
        for start in range(0, len(texts), BATCH_ROWS):
            rows = [(bound, text) for text in texts[start : start + BATCH_ROWS]]
            answers += [answer.label if answer.label is not None else answer.text for answer in predictor.predict(rows)]
        return answers


def first_start(
    backbone: EncoderBackbone,
    subspace: Subspace,
    examples: Sequence[Example],
    texts: Sequence[str],
    weight: float | None,
    named: bool = True,
) -> list[str]:
    """The label of each text by a readout behind the prompt where tuning would start.

    `weight` is that of the classifier on both embeddings, beside the baseline; None: a classifier on the prompted ones,
    which the labels' names are no examples of, nor are they where it is not `named`.
    """
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])

    def embeddings(rows: Sequence[str]) -> Embeddings:
        with torch.inference_mode():
            prompt = subspace.decoder(subspace.initial_vectors[:1].to(backbone.device))
            both = backbone.embed_both(backbone.tokenize(rows), prompt.expand(len(rows), -1, -1))
        return Embeddings(*(each.float().cpu().clone() for each in both))

    known, asked = embeddings([row.input for row in examples]), embeddings(texts)
    if weight is None:
        logits = fit_linear(known.prompted, classes, len(labels)).logits(asked.prompted)
    else:
        names = names_of(labels) if named else ()
        logits = fit_readout(known, classes, len(labels), weight, embeddings(names) if names else None).logits(asked)
    return [labels[i] for i in logits.argmax(dim=1).tolist()]


def e_rel(measurements: Sequence[Measurement]) -> dict[str, float]:
    """IST's score divided by PT's, by task: both averaged over the draws that both were measured on."""
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for each in measurements:
        scores.setdefault(each.task, {}).setdefault(each.method, {})[each.seed] = each.score
    relative = {}
    for task, by_method in scores.items():
        ist, pt = by_method.get("IST", {}), by_method.get("PT", {})
        seeds = ist.keys() & pt.keys()
        if seeds and any(pt[seed] for seed in seeds):
            relative[task] = sum(ist[seed] for seed in seeds) / sum(pt[seed] for seed in seeds)
    return relative


def random_subspace(backbone: Backbone, like: Subspace, seed: int) -> Subspace:
    """An untrained decoder of the same shape: how much of a subspace's worth is in having few numbers to tune.

    It starts as a fit does, at embeddings of words that a vector of unit size moves by the spread of words.
    """
    hidden = getattr(like.decoder, "decoder_hidden", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = SubspaceDecoder(like.intrinsic_dim, hidden, like.prompt_length, like.hidden_size)
    words = word_prompts(backbone, like.prompt_length, seed=seed)
    spread = float(words.std())
    with torch.no_grad():
        moved = decoder(torch.eye(like.intrinsic_dim)) - decoder(torch.zeros(1, like.intrinsic_dim))
        decoder.project.weight.mul_(spread / float(moved.std()))
        decoder.project.bias.copy_(words.flatten())
    decoder.requires_grad_(False).to(backbone.device)
    return replace(
        like,
        id=f"random_{seed}_{like.id}",
        decoder=decoder,
        encoder=None,
        task_vectors=None,
        initial_vectors=torch.zeros(1, like.intrinsic_dim),
    )


def _starts(subspace: Subspace, method: str, seed: int) -> Tensor:
    """[K, D]: the vectors where tuning may start. Of all tasks' vectors the engine chooses as of initial ones."""
    zero = torch.zeros(1, subspace.intrinsic_dim)
    if method == "IST from zero":
        return zero
    if subspace.task_vectors is None:
        raise SubspaceError(f"subspace {subspace.id} came without its tasks' vectors, which {method!r} needs")
    if method == "IST from the nearest task":
        return torch.cat([zero, subspace.task_vectors])
    # Of the spread that the tasks' vectors have in each direction.
    generator = torch.Generator().manual_seed(seed)
    return subspace.task_vectors.std(dim=0) * torch.randn(zero.shape, generator=generator)


def _best(tasks: Sequence[AdaptedTask]) -> AdaptedTask:
    """The one of highest held-back score; of equals, the first."""
    scores = [task.metrics.get("score") for task in tasks]
    return tasks[int(np.argmax([score if isinstance(score, int | float) else -1.0 for score in scores]))]


def _at_most(rows: Sequence[Example], limit: int, seed: int) -> list[Example]:
    if len(rows) <= limit:
        return list(rows)
    chosen = np.random.default_rng([seed, 7]).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())]
