"""Tuning a classification task on an encoder.

The loss of a step is the leave-one-out error of a ridge classifier on its rows (`ipt.readout.ridge`), as in the fit of
a subspace. Validation fits the readout (`ipt.readout`) to the training examples and measures it on the held-back ones.
Rows are the examples to tune on, then those held back, then the names of the labels, which the readout learns from too.

Letters: L lanes, B rows of a step, N examples, C classes, H hidden size, D intrinsic dimension.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, labels_of, names_of
from ipt.prediction.tasks import TaskHead
from ipt.readout.cross_validation import CrossValidation
from ipt.readout.embeddings import Embeddings, with_names
from ipt.readout.linear_classifier import LinearClassifier, fit_linear, is_large
from ipt.readout.readout import fit_readout
from ipt.readout.ridge import class_targets, gram, leave_one_out
from ipt.subspace.subspace import Subspace
from ipt.tuning.job import AdaptedTask, TuningJob
from ipt.tuning.losses import RidgeLoss
from ipt.tuning.program import Program, Steps
from ipt.tuning.quality import quality_warnings
from ipt.tuning.state import TuningState
from ipt.tuning.work import NO_PROMPT, Descend, Forward, Pause, Result, Work

MAX_CLASSES_PER_STEP = 6
TUNING_TOKENS = 128
"""Longer texts are cut to this many tokens while tuning; prediction reads all that the backbone can."""
READOUT_ROWS = 4096
"""Most training examples that the final readout is fitted to."""
VALIDATION_ROWS = 256
"""Most training rows, and most held-back rows, that one validation reads."""
FOLDS = 5
"""Parts that the examples are cut into for cross-validation."""
PROMPT_PENALTY = 1.0
"""Nats by which the examples must be likelier with a prompt than without for both to count the same in the readout."""
FAMILY_PENALTY = 2.0
"""Nats by which they must be likelier with another initial vector than with the first one for tuning to start there:
the seven others of a subspace share even odds."""
FIRST_LOOK_SHARE = 0.25
"""Share of the examples that all initial vectors are compared on first (docs/decisions/0034) ..."""
FIRST_LOOK_PER_LABEL = 4
"""... which are so many of each label at least."""
RUNNERS_UP = 2
"""Initial vectors that are compared on all examples, besides the first one."""
FORWARD_TOKENS = 4096
"""Tokens of one unit of work without gradients, so that no single step of the engine takes long."""
DEFAULT_CONSTANTS = {"ridge": 0.3, "scale": 8.0}


class _Seen(NamedTuple):
    """What a readout behind one prompt sees: embeddings of examples, and of the labels' names if they tell anything."""

    examples: Embeddings
    names: Embeddings | None


class EncoderProgram(Program):
    """The work of one classification job on an encoder."""

    patience = 1  # where the first steps gain nothing the next ones hardly ever do: docs/decisions/0033

    def __init__(
        self, job: TuningJob, subspace: Subspace, backbone: EncoderBackbone, checkpoint: bytes | None = None
    ) -> None:
        super().__init__(job, subspace, backbone.device, checkpoint)
        self.started = time.monotonic()
        self.labels = labels_of(job.examples)
        rng = np.random.default_rng([job.hyperparameters.seed, 3])
        self.train = [self.train[i] for i in _at_most(self.train, READOUT_ROWS, rng)]
        self.held_back = [self.held_back[i] for i in _at_most(self.held_back, VALIDATION_ROWS, rng)]
        examples = self.train + self.held_back
        texts = [*(example.input for example in examples), *names_of(self.labels)]
        self.token_ids = backbone.tokenize(texts, max_tokens=TUNING_TOKENS)
        self.name_rows = list(range(len(examples), len(texts)))
        index = {label: number for number, label in enumerate(self.labels)}
        self.classes = torch.tensor([index[example.output] for example in examples])
        self.train_rows = list(range(len(self.train)))
        self.held_rows = list(range(len(self.train), len(examples)))
        self.probe_rows = _at_most(self.train, VALIDATION_ROWS, rng)
        measured = self.probe_rows + self.held_rows
        limit = max(math.ceil(FIRST_LOOK_SHARE * len(measured)), FIRST_LOOK_PER_LABEL * len(self.labels))
        self.first_look_rows = [measured[i] for i in _at_most([examples[row] for row in measured], limit, rng)]
        train_classes = self.classes[: len(self.train)].numpy()
        self.rows_of_class = [np.flatnonzero(train_classes == c) for c in np.unique(train_classes)]
        # Learned with the subspace.
        constants = subspace.manifest["training"].get("readout", DEFAULT_CONSTANTS)
        self.ridge, self.scale = float(constants["ridge"]), float(constants["scale"])
        self.frozen = torch.empty(0)
        # Where tuning starts is validated first, and what was validated best is what is concluded with.
        self._read: dict[bytes, dict[int, Tensor]] = defaultdict(dict)
        self.baseline: LinearClassifier | None = None
        """On the frozen embeddings of the probe rows: no vector changes it, so it is fitted once."""
        self.blend = 0.5
        """Weight of the prompted embeddings' classifier in the readout, see `_compare_starts`."""
        self.evidence: list[float] = []
        self.measured_rows = len(self.held_rows) or len(self.probe_rows)

    def prepare(self) -> Steps:
        self.frozen = yield from self._embed(None, [(NO_PROMPT, row) for row in range(len(self.token_ids))])
        if self.held_rows:
            self.baseline = yield from self._fit_baseline(self.probe_rows)
        yield from self._compare_starts()

    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        rows = self.probe_rows + self.held_rows
        losses = []
        for vector in vectors:
            seen = yield from self._seen(vector, rows)
            logits, classes = yield from self._unseen_logits(
                seen, self.classes[rows], len(self.probe_rows), self.baseline
            )
            losses.append(F.cross_entropy(logits, classes).item())
        return losses

    def start_losses(self) -> Generator[Work, Result, list[float]]:
        yield from ()
        return [-evidence for evidence in self.evidence]

    def _compare_starts(self) -> Steps:
        """Log evidence for every initial vector, and from it the weight of the prompted embeddings in the readout.

        All rows take part, because few are too few, and because no vector has been tuned on any of them yet: with a
        tuned vector, cross-validation over the rows it was tuned on would always find in its favour.
        """
        rows = self.probe_rows + self.held_rows
        compared = yield from self._promising_starts(len(rows))
        likelihood = CrossValidation(self.frozen[rows], self.classes[rows], len(self.labels), FOLDS)
        yield from self._read_behind(self.initial_vectors[compared], rows + self.name_rows)
        self.evidence = [-math.inf] * len(self.initial_vectors)
        for number in compared:
            seen = yield from self._seen(self.initial_vectors[number], rows)
            yield from self._turn(len(rows))
            self.evidence[number] = likelihood.prompted(*seen) - (FAMILY_PENALTY if number else 0.0)
        yield from self._turn(len(rows))
        odds = max(self.evidence) - likelihood.baseline - PROMPT_PENALTY
        self.blend = torch.tensor(odds, dtype=torch.float64).sigmoid().item()

    def _promising_starts(self, most_rows: int) -> Generator[Work, Result, list[int]]:
        """The initial vectors to compare on all rows: the first one, and those of the others that some rows favour."""
        count = len(self.initial_vectors)
        runners_up = max(RUNNERS_UP, self.job.hyperparameters.restarts - 1)
        rows = self.first_look_rows
        if 1 + runners_up >= count or len(rows) == most_rows:
            return list(range(count))
        yield from self._read_behind(self.initial_vectors, rows + self.name_rows)
        likelihood = CrossValidation(self.frozen[rows], self.classes[rows], len(self.labels), FOLDS)
        evidence = []
        for vector in self.initial_vectors[1:]:
            seen = yield from self._seen(vector, rows)
            yield from self._turn(len(rows))
            evidence.append(likelihood.prompted(*seen))
        order = np.argsort(-np.asarray(evidence), kind="stable")[:runners_up]
        return [0, *sorted(1 + int(place) for place in order)]

    def descend_on(self, state: TuningState, learning_rate: float) -> Descend:
        drawn = [self._draw(lane, state.lanes.step) for lane in range(state.lanes.vectors.shape[0])]
        sizes = [len(rows) for rows, _ in drawn]
        rows, classes = (torch.from_numpy(np.concatenate(each)) for each in zip(*drawn, strict=True))
        lanes = [lane for lane, size in enumerate(sizes) for _ in range(size)]
        num_classes = min(len(self.rows_of_class), MAX_CLASSES_PER_STEP)
        loss = RidgeLoss(sizes, self.frozen[rows], classes, num_classes, self.ridge, self.scale)
        return Descend(state.lanes, lanes, [self.token_ids[row] for row in rows.tolist()], loss, learning_rate)

    def conclude(self, vector: Tensor) -> Generator[Work, Result, AdaptedTask]:
        rows = self.train_rows + self.held_rows
        tuned = yield from self._seen(vector, rows)
        zero = yield from self._seen(torch.zeros_like(vector), rows)
        yield from self._turn(len(rows))
        readout = fit_readout(tuned.examples, self.classes, len(self.labels), self.blend, tuned.names)
        score, zero_score, baseline_score = yield from self._scores(tuned, zero)
        metrics: dict[str, float | int | str | None] = {
            "score_metric": "accuracy",
            "score_source": "held_back" if self.held_rows else "leave_one_out",
            "score": score,
            "zero_vector_score": zero_score,
            "baseline_score": baseline_score,
            "prompt_weight": round(self.blend, 3),
            "baseline": f"{'logistic regression' if self.held_rows else 'ridge classifier'} on frozen embeddings",
            "held_back": len(self.held_rows),
            "steps_run": 0 if self.state is None else self.state.lanes.step,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        warnings = quality_warnings(score, zero_score, baseline_score, len(self.held_rows))
        final = vector.detach().cpu().numpy().astype(np.float32)
        head = TaskHead(final, self.subspace.id, "classification", self.labels, readout.to_bytes())
        return AdaptedTask(head, metrics, warnings)

    def _scores(self, tuned: _Seen, zero: _Seen) -> Generator[Work, Result, tuple[float, float, float]]:
        """Accuracy of the tuned vector, of the zero vector and of the baseline, on rows that they did not see."""
        train = len(self.train_rows)
        baseline = self.baseline
        if self.held_rows:
            if baseline is None or train > len(self.probe_rows):
                baseline = yield from self._fit_baseline(self.train_rows)
            of_baseline, classes = baseline.logits(self.frozen[self.held_rows]), self.classes[train:]
        else:
            of_baseline = yield from self._leave_one_out_logits(self.frozen[self.train_rows], self.classes)
            classes = self.classes
        of_vectors = []
        for each in (tuned, zero):
            logits, _ = yield from self._unseen_logits(each, self.classes, train, baseline)
            of_vectors.append(logits)
        score, zero_score, baseline_score = (
            (logits.argmax(dim=1) == classes).float().mean().item() for logits in (*of_vectors, of_baseline)
        )
        return score, zero_score, baseline_score

    def _unseen_logits(
        self, seen: _Seen, classes: Tensor, train: int, baseline: LinearClassifier | None
    ) -> Generator[Work, Result, tuple[Tensor, Tensor]]:
        """Logits of rows by a classifier that was not fitted on them, and their classes.

        The rows after the first `train` ones, by the readout fitted on those (`baseline` is its frozen part); where
        there are none, every row, by the same blend of ridge classifiers of the others.
        """
        examples, names = seen
        if train < len(examples):
            yield from self._turn(train)
            known, unseen = examples.rows(slice(train)), examples.rows(slice(train, None))
            readout = fit_readout(known, classes[:train], len(self.labels), self.blend, names, baseline)
            return readout.logits(unseen), classes[train:]
        of_both = yield from self._leave_one_out_logits(examples.features(), classes, names)
        of_frozen = yield from self._leave_one_out_logits(examples.frozen, classes)
        return self.blend * of_both + (1.0 - self.blend) * of_frozen, classes

    def _leave_one_out_logits(
        self, features: Tensor, classes: Tensor, names: Embeddings | None = None
    ) -> Generator[Work, Result, Tensor]:
        yield from self._turn(len(features))
        known, classes = with_names(features, classes, names)
        targets = class_targets(classes, len(self.labels))
        return self.scale * leave_one_out(gram(known), targets, self.ridge)[: len(features)]

    def _fit_baseline(self, rows: Sequence[int]) -> Generator[Work, Result, LinearClassifier]:
        yield from self._turn(len(rows))
        return fit_linear(self.frozen[list(rows)], self.classes[list(rows)], len(self.labels))

    def _turn(self, rows: int) -> Steps:
        """To be taken before a fit to so many rows and the names: a large one has an engine step of its own."""
        if is_large(rows + len(self.name_rows), len(self.labels)):
            yield Pause()

    def _seen(self, vector: Tensor, rows: Sequence[int]) -> Generator[Work, Result, _Seen]:
        """What the readout of `vector` [D] sees of the rows, each of which is read once for each vector."""
        yield from self._read_behind(vector[None], [*rows, *self.name_rows])
        read = self._read[_key(vector)]

        def embeddings(some: Sequence[int]) -> Embeddings:
            return Embeddings(torch.stack([read[row] for row in some]), self.frozen[list(some)])

        return _Seen(embeddings(rows), embeddings(self.name_rows) if self.name_rows else None)

    def _read_behind(self, vectors: Tensor, rows: Sequence[int]) -> Steps:
        """Read rows behind the prompt of each of `vectors` [L, D], as far as they have not been."""
        read = [self._read[_key(vector)] for vector in vectors]
        places = [(lane, row) for row in rows for lane, own in enumerate(read) if row not in own]
        embedded = yield from self._embed(vectors, places)
        for (lane, row), embedding in zip(places, embedded, strict=True):
            read[lane][row] = embedding

    def _embed(self, vectors: Tensor | None, places: Sequence[tuple[int, int]]) -> Generator[Work, Result, Tensor]:
        """[len(places), H] on the CPU: for each (lane, row) the row behind the prompt of that one of `vectors` [L, D].

        Without vectors the rows are frozen. They are read in bounded units of work, the longest first, so that little
        of each is padding.
        """
        prompt_length = 0 if vectors is None else self.subspace.prompt_length
        order = sorted(range(len(places)), key=lambda place: -len(self.token_ids[places[place][1]]))
        units: list[list[tuple[int, int]]] = []
        tokens = 0
        for lane, row in (places[place] for place in order):
            length = prompt_length + len(self.token_ids[row])
            if not units or tokens + length > FORWARD_TOKENS:
                units.append([])
                tokens = 0
            units[-1].append((lane, row))
            tokens += length
        given = torch.empty(0, self.subspace.intrinsic_dim) if vectors is None else vectors
        embedded = torch.empty(len(places), self.subspace.hidden_size)
        done = 0
        for unit in units:
            lanes, rows = zip(*unit, strict=True)
            taken = self._taken((yield Forward(given, lanes, [self.token_ids[row] for row in rows])))
            embedded[order[done : done + len(unit)]] = taken
            done += len(unit)
        return embedded

    @staticmethod
    def _taken(result: Result) -> Tensor:
        assert isinstance(result, Tensor)
        return result.float().cpu()

    def _draw(self, lane: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training rows of some classes for one lane's step, as many of each class as there are; and which, from 0."""
        rng = self.rng(lane, step)
        num_classes = min(len(self.rows_of_class), MAX_CLASSES_PER_STEP)
        per_class = max(2, self.job.hyperparameters.batch_size // num_classes)
        chosen = rng.choice(len(self.rows_of_class), size=num_classes, replace=False)
        drawn = [rng.permutation(self.rows_of_class[c])[:per_class] for c in chosen]
        return np.concatenate(drawn), np.repeat(np.arange(num_classes), [len(rows) for rows in drawn])


def _key(vector: Tensor) -> bytes:
    return vector.cpu().numpy().tobytes()


def _at_most(examples: list[Example], limit: int, rng: np.random.Generator) -> list[int]:
    """Indices of at most `limit` of the examples, in their order, taking from every label in turn."""
    if len(examples) <= limit:
        return list(range(len(examples)))
    taken: dict[str, int] = defaultdict(int)
    ranked = []
    for index in rng.permutation(len(examples)).tolist():
        label = examples[index].output
        ranked.append((taken[label], index))
        taken[label] += 1
    return sorted(index for _, index in sorted(ranked)[:limit])
