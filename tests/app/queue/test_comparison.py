"""A version that succeeds is promoted if it is better than the one that answers, where the task asks for it."""

from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, select, update

import ipt
from app.db.answering import ANSWERING_VERSION
from app.db.models import Adaptation, Promotion, Task
from app.db.session import transaction
from app.queue import lifecycle
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.held_out_texts import HeldOutTexts
from tests.support.claims import SUBSPACE, claim_one
from tests.support.jobs import Enqueue, Row

TEXTS = ["one", "two", "three", "four"]
FIRST = [{"input": text, "output": label} for text, label in zip(TEXTS, "aabb", strict=True)]

pytestmark = pytest.mark.usefixtures("subspace")


class Versions:
    """Adds versions to one task."""

    def __init__(self, engine: Engine, enqueue: Enqueue, row: Row) -> None:
        self._engine, self._enqueue, self._row = engine, enqueue, row
        self.task_id: str | None = None
        self._number = 0

    def add(
        self,
        answers: Sequence[str],
        sure: float = 2.0,
        examples: list[dict[str, str]] = FIRST,
        labels: str = "ab",
        kind: ipt.TaskKind = "classification",
    ) -> Adaptation:
        """Add a version that answers the first held-out texts with these labels, and return its adaptation.

        An answer of a multi-label version is a string of labels, of one letter each; one of text to text is a text.
        """
        adaptation_id = self._enqueue(examples=examples)
        self._number += 1
        if self.task_id is None:
            self.task_id = self._row(adaptation_id).task_id
        values = {"task_id": self.task_id, "task_version": self._number}
        with transaction(self._engine) as session:
            session.execute(update(Adaptation).where(Adaptation.id == adaptation_id).values(values))
        logits = np.array(
            [[sure * (2.0 * (label in answer) - 1.0) for label in labels] for answer in answers], dtype=np.float32
        )
        numbers = np.arange(len(answers), dtype=np.int32)
        held_out: HeldOutLogits | HeldOutTexts | None = HeldOutLogits(numbers, logits) if answers else None
        if kind == "text2text":
            labels, held_out = "", HeldOutTexts(numbers, tuple(answers), np.full(len(answers), 0.5, np.float32))
        head = ipt.TaskHead(np.zeros(4, np.float32), SUBSPACE, kind, tuple(labels), b"")
        task = ipt.AdaptedTask(head, {"score": 0.5}, held_out=held_out)
        with transaction(self._engine) as session:
            assert lifecycle.succeed(session, claim_one(self._engine), task)
        return self._row(adaptation_id)

    def answering(self) -> int | None:
        with transaction(self._engine) as session:
            return session.execute(select(ANSWERING_VERSION).where(Task.id == self.task_id)).scalar_one()

    def set_policy(self, promotion: Promotion) -> None:
        with transaction(self._engine) as session:
            session.execute(update(Task).where(Task.id == self.task_id).values(promotion=promotion))


@pytest.fixture
def versions(engine: Engine, enqueue: Enqueue, row: Row) -> Versions:
    """A task that promotes if better, whose first version answers three of four texts right."""
    versions = Versions(engine, enqueue, row)
    versions.add("aaba")
    versions.set_policy("if_better")
    return versions


def test_only_a_better_version_is_promoted(versions: Versions) -> None:
    worse = versions.add("abba").metrics
    assert worse is not None
    assert worse == {
        "score": 0.5, "compared_version": 1, "compared_rows": 4, "compared_right": 2, "compared_right_before": 3,
        "promoted": 0,
    }  # fmt: skip
    assert versions.answering() == 1
    better = versions.add("aabb").metrics
    assert better is not None
    assert (better["compared_version"], better["compared_right"], better["promoted"]) == (1, 4, 1)
    assert versions.answering() == 3
    less_sure = versions.add("aabb", sure=1.0).metrics
    assert less_sure is not None
    assert (less_sure["compared_right"], less_sure["compared_right_before"], less_sure["promoted"]) == (4, 4, 0)
    assert versions.answering() == 3


def test_the_labels_of_the_new_dataset_decide_on_texts_that_both_have(versions: Versions) -> None:
    relabelled = [{**FIRST[0], "output": "c"}, {"input": "new", "output": "c"}, *FIRST[2:]]
    metrics = versions.add("ccba", examples=relabelled, labels="abc").metrics
    assert metrics is not None
    assert (metrics["compared_rows"], metrics["compared_right"], metrics["compared_right_before"]) == (3, 2, 1)
    assert versions.answering() == 2


@pytest.mark.parametrize("answers", ["", "ab"])
def test_a_version_that_cannot_be_compared_is_not_promoted(versions: Versions, answers: str) -> None:
    others = [{"input": f"{text} else", "output": label} for text, label in zip(TEXTS, "abab", strict=True)]
    adaptation = versions.add(answers, examples=others)
    assert versions.answering() == 1
    assert adaptation.metrics == {"score": 0.5}
    assert "version 2 was not promoted" in adaptation.warnings[-1]


def test_other_policies_compare_nothing(versions: Versions) -> None:
    versions.set_policy("manual")
    assert versions.add("aabb").metrics == {"score": 0.5}
    assert versions.answering() == 1
    versions.set_policy("always")
    assert versions.add("bbaa").metrics == {"score": 0.5}
    assert versions.answering() == 3


def test_a_version_with_several_labels_is_compared_by_whole_sets_and_with_its_kind_only(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    sets = ["a", "ab", "b", "", "ab", "a", "b", ""]
    examples = [
        {"input": f"text {number}", "output": ipt.Example.with_labels("", labels).output}
        for number, labels in enumerate(sets)
    ]
    versions = Versions(engine, enqueue, row)
    versions.add(["b", "a", *sets[2:]], examples=examples, kind="multilabel")
    versions.set_policy("if_better")
    better = versions.add(sets, examples=examples, kind="multilabel").metrics
    assert better is not None
    assert (better["compared_right"], better["compared_right_before"], better["promoted"]) == (8, 6, 1)
    assert versions.answering() == 2
    other_kind = versions.add("aabb")
    assert "was not promoted" in other_kind.warnings[-1]
    assert versions.answering() == 2


def test_a_version_that_writes_texts_is_compared_by_exact_matches_and_then_by_words(
    engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    outputs = ["red shoes", "two green hats", "a blue coat"]
    examples = [{"input": f"order {number}", "output": text} for number, text in enumerate(outputs)]
    versions = Versions(engine, enqueue, row)
    versions.add(["red shoes", "hats", "gloves"], examples=examples, kind="text2text")
    versions.set_policy("if_better")
    more_words = versions.add(["red shoes", "two hats", "gloves"], examples=examples, kind="text2text").metrics
    assert more_words is not None
    figures = [more_words[name] for name in ("compared_right", "compared_right_before", "promoted")]
    assert figures == [1, 1, 1]
    worse = versions.add(["shoes", "two green hat", "blue coats"], examples=examples, kind="text2text").metrics
    assert worse is not None
    assert worse["promoted"] == 0
    assert versions.answering() == 2
    other_kind = versions.add("aab", examples=examples)
    assert "was not promoted" in other_kind.warnings[-1]
