"""Which tasks can be measured, and on which of their rows."""

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.measured_tasks import measurable_tasks, no_measurable_task, without_fitted_rows
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.task_losses import EncoderTaskLosses
from tests.support.datasets import sentiment

OPTIONS = FitOptions(intrinsic_dim=3, decoder_hidden=4, prompt_length=2, steps=1, rows_per_task=4)
TASKS = [TaskDataset(name, "opinion", tuple(sentiment(repeats)), ()) for name, repeats in (("a", 4), ("b", 2))]
UNSEEN = TaskDataset("c", "opinion", tuple(sentiment(3)), ())


def test_rows_that_a_fit_saw_are_removed(encoder: EncoderBackbone, tmp_path: Path) -> None:
    fits = []
    for most in (4, 64):
        options = replace(OPTIONS, examples_per_label=most, seed=most)
        fits.append(DirectFit(prepare_tasks(encoder, TASKS, options), options))
    subspaces = [fit.run_in(tmp_path / str(number), lambda *_: None) for number, fit in enumerate(fits)]
    (*others, unseen), notes = without_fitted_rows([*TASKS, UNSEEN], subspaces)
    assert (unseen, notes) == (UNSEEN, [])
    for number, (task, left) in enumerate(zip(TASKS, others, strict=True)):
        assert replace(left, train=task.train) == task
        seen = set()
        for fit in fits:
            assert isinstance(fit.losses, EncoderTaskLosses)
            seen |= {tuple(ids) for ids in fit.losses.tasks[number].token_ids}
        of_left, of_all = (
            {tuple(ids) for ids in encoder.tokenize([row.input for row in rows])} for rows in (left.train, task.train)
        )
        assert of_left == of_all - seen != set()


def test_a_task_whose_rows_have_changed_since_a_fit_is_noted(encoder: EncoderBackbone, tmp_path: Path) -> None:
    subspace = DirectFit(prepare_tasks(encoder, TASKS, OPTIONS), OPTIONS).run_in(tmp_path, lambda *_: None)
    shorter = replace(TASKS[0], train=TASKS[0].train[1:])
    _, notes = without_fitted_rows([shorter, TASKS[1]], [subspace])
    assert [note.partition(";")[0] for note in notes] == [
        f"a: its rows have changed since {subspace.id} was found from it"
    ]
    del subspace.manifest["training"]["rows"]  # as in old manifests
    assert without_fitted_rows([shorter], [subspace]) == ([ANY], [])


def test_a_task_without_enough_unfitted_rows_is_left_out_and_named() -> None:
    rows = tuple(sentiment(3))
    whole = TaskDataset("sentiment", "opinion", rows[:20], rows[20:])
    label = whole.train[0].output
    without_a_label = replace(whole, name="torn", train=tuple(row for row in whole.train if row.output != label))
    used_up = replace(whole, name="empty", train=())
    measurable, left_out = measurable_tasks([used_up, whole, without_a_label], 2, "encoder")
    assert measurable == [whole]
    assert left_out[0] == "empty: has no training rows that no fit has seen"
    assert left_out[1].startswith(f"torn: has test rows of {label!r}")
    assert measurable_tasks([used_up], 2, "encoder") == ([], left_out[:1])
    assert str(no_measurable_task(2, left_out[:1])).startswith("no task can be measured with 2")


def test_a_text_task_with_fewer_rows_than_a_draw_needs_is_left_out_and_named() -> None:
    rows = tuple(ipt.Example(f"input {number}", f"text {number}") for number in range(12))
    enough = TaskDataset("enough", "texts", rows[:10], rows[10:])
    short = replace(enough, name="short", train=rows[:9])
    measurable, left_out = measurable_tasks([short, enough], 5, "seq2seq")
    assert measurable == [enough]
    assert left_out == ["short: has 9 training rows to draw from, fewer than 10"]
    [fault] = measurable_tasks([enough], 5, "encoder")[1]
    assert re.match(r"enough: the outputs are texts, .* an encoder does not write text", fault)
