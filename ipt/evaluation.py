"""How good a subspace is: tuning in it against plain prompt tuning (E_rel) and against what needs no tuning.

Source: arXiv 2110.07867, section 4. Everything is measured on a task's test rows, which nothing was tuned on; what has
to be chosen (PT's learning rate) is chosen by the score on held-back examples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ipt.adapt import head_of
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.protocol import Backbone, Family
from ipt.errors import DatasetError
from ipt.examples import Example, check_examples, labels_of
from ipt.prediction import Predictor
from ipt.readout import fit_linear
from ipt.subspace.modules import SubspaceDecoder
from ipt.subspace.prompt_space import prompt_space, word_prompts
from ipt.subspace.store import Subspace
from ipt.task_folder import FolderTask, few_shot
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, TuningJob

METHODS = ("class names", "logistic regression", "nearest neighbours", "random", "PT", "IST", "IST then PT")
PT_LEARNING_RATES: dict[Family, tuple[float, ...]] = {
    "encoder": (0.001, 0.003, 0.01),
    # No readout learns beside the prompt: at 0.003 most tasks are answered as badly as before.
    "seq2seq": (0.01, 0.03, 0.1),
    "causal": (0.01, 0.03, 0.1),
}
"""Where PT is at its best, as measured on MiniLM and on the backbone of docs/text-universe.md."""
NEIGHBOURS = 5
BATCH_ROWS = 64


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how. PT has more steps and several learning rates: E_rel is about PT at its best."""

    per_label: int = 16
    test_rows: int = 500
    """Most test rows of a task that are scored."""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    pt_steps: int = 200
    pt_learning_rates: tuple[float, ...] | None = None
    """Those of `PT_LEARNING_RATES` for the backbone's family when None."""
    methods: tuple[str, ...] = METHODS


@dataclass(frozen=True)
class Measurement:
    """One method's accuracy, or exact match, on one task with one draw of examples."""

    task: str
    family: str
    seed: int
    method: str
    score: float
    seconds: float
    detail: dict[str, float | int | str | None]


class Evaluation:
    """Measures one subspace. `measure` gives a task's measurements with one draw of examples, method by method."""

    def __init__(self, backbone: Backbone, subspace: Subspace, options: EvaluationOptions) -> None:
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace
        self.options = options
        self.pt_learning_rates = options.pt_learning_rates or PT_LEARNING_RATES[backbone.family]

    @property
    def identity(self) -> dict[str, object]:
        """All that makes measurements comparable, as JSON keeps it."""
        described = asdict(self.options)
        del described["methods"], described["hyperparameters"]["seed"]
        described["pt_learning_rates"] = list(self.pt_learning_rates)
        return {"subspace": self.subspace.id, **described}

    def measure(
        self,
        task: FolderTask,
        seed: int,
        methods: Sequence[str] | None = None,
    ) -> Iterator[Measurement]:
        """These methods, or all, on examples drawn by `seed`; what the backbone's family cannot do is left out.

        Raises:
            DatasetError: the task cannot be tuned on, or has no test rows.
        """
        if not task.test:
            raise DatasetError(f"{task.name}: has no test rows to measure on")
        options = self.options
        examples = few_shot(task.train, options.per_label, seed)
        test = _at_most(task.test, options.test_rows, seed)
        hyperparameters = replace(options.hyperparameters, seed=seed)
        texts = [row.input for row in test]
        for method in options.methods if methods is None else methods:
            started = time.perf_counter()
            detail: dict[str, float | int | str | None] = {}
            if method in _WITHOUT_TUNING:
                if not isinstance(self.backbone, EncoderBackbone):
                    continue
                answers: Sequence[str | None] = _WITHOUT_TUNING[method](self.backbone, examples, texts)
            else:
                space, tuned = self._tuned(method, examples, hyperparameters)
                answers = self._answers(space, tuned, texts)
                detail = tuned.metrics
            score = sum(given == row.output for given, row in zip(answers, test, strict=True)) / len(test)
            seconds = time.perf_counter() - started
            yield Measurement(task.name, task.family, seed, method, score, seconds, detail)

    def _tuned(
        self, method: str, examples: Sequence[Example], hyperparameters: Hyperparameters
    ) -> tuple[Subspace, AdaptedTask]:
        """A method's space, and the task tuned in it."""
        seed, length = hyperparameters.seed, self.subspace.prompt_length

        def tune(space: Subspace, asked: Sequence[Hyperparameters]) -> AdaptedTask:
            return _best(_tune_all(self.backbone, space, examples, asked))

        if method == "IST":
            return self.subspace, tune(self.subspace, [hyperparameters])
        if method == "random":
            space = random_subspace(self.backbone, self.subspace, seed)
            return space, tune(space, [hyperparameters])
        if method not in ("PT", "IST then PT"):
            raise ValueError(f"there is no method {method!r}")
        starts = word_prompts(self.backbone, length, seed=seed)
        if method == "IST then PT":
            found = tune(self.subspace, [hyperparameters])
            with torch.no_grad():
                vector = torch.from_numpy(found.vector)[None].to(self.backbone.device)
                starts = self.subspace.decoder(vector).cpu()
        space = prompt_space(self.backbone, length, starts)
        rates = [
            replace(hyperparameters, steps=self.options.pt_steps, learning_rate=rate) for rate in self.pt_learning_rates
        ]
        return space, tune(space, rates)

    def _answers(self, space: Subspace, task: AdaptedTask, texts: Sequence[str]) -> list[str | None]:
        predictor = Predictor(self.backbone, space)
        bound = predictor.bind(head_of(task))
        answers: list[str | None] = []
        for start in range(0, len(texts), BATCH_ROWS):
            rows = [(bound, text) for text in texts[start : start + BATCH_ROWS]]
            answers += [answer.label if answer.label is not None else answer.text for answer in predictor.predict(rows)]
        return answers


def class_names(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label whose name's embedding is nearest to each text's."""
    labels = labels_of(examples)
    similar = _embed(backbone, texts) @ _embed(backbone, labels).T
    return [labels[i] for i in similar.argmax(dim=1).tolist()]


def logistic_regression(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label of each text by logistic regression on the frozen embeddings of the examples."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    classifier = fit_linear(_embed(backbone, [example.input for example in examples]), classes, len(labels))
    return [labels[i] for i in classifier.logits(_embed(backbone, texts)).argmax(dim=1).tolist()]


def nearest_neighbours(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label that most of the nearest examples have; of equals, the one whose examples are nearer."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    similar = _embed(backbone, texts) @ _embed(backbone, [example.input for example in examples]).T
    nearest = similar.topk(min(NEIGHBOURS, len(examples)), dim=1)
    # Similarities are at most 1, so they decide between equal counts alone.
    votes = torch.zeros(len(texts), len(labels)).scatter_add_(1, classes[nearest.indices], 1.0 + 1e-3 * nearest.values)
    return [labels[i] for i in votes.argmax(dim=1).tolist()]


_WITHOUT_TUNING = {
    "class names": class_names,
    "logistic regression": logistic_regression,
    "nearest neighbours": nearest_neighbours,
}


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


def _tune_all(
    backbone: Backbone, space: Subspace, examples: Sequence[Example], asked: Sequence[Hyperparameters]
) -> list[AdaptedTask]:
    """One task with several hyperparameters, in one engine."""
    kind = check_examples(examples, None, None)
    engine = TuningEngine(backbone, space)
    for number, hyperparameters in enumerate(asked):
        engine.add(TuningJob(str(number), list(examples), kind, hyperparameters=hyperparameters))
    while not all(progress.done for progress in engine.step()):
        pass
    return [engine.finish(str(number)) for number in range(len(asked))]


def _best(tasks: Sequence[AdaptedTask]) -> AdaptedTask:
    """The one of highest held-back score; of equals, the first."""
    scores = [task.metrics.get("score") for task in tasks]
    return tasks[int(np.argmax([score if isinstance(score, int | float) else -1.0 for score in scores]))]


def _at_most(rows: Sequence[Example], limit: int, seed: int) -> list[Example]:
    if len(rows) <= limit:
        return list(rows)
    chosen = np.random.default_rng([seed, 7]).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())]


def _embed(backbone: EncoderBackbone, texts: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return backbone.embed(backbone.tokenize(texts), None).float().cpu().clone()
