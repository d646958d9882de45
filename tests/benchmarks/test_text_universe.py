"""The text-to-text pipeline end to end: pre-training, fits, tuning in subspaces, and the report."""

import statistics
from pathlib import Path

import pytest

import ipt
from benchmarks.text_universe import pipeline, pretraining
from benchmarks.text_universe.pretraining import PretrainingOptions, pretrain
from benchmarks.text_universe.report import WITHOUT, Scores, page
from benchmarks.text_universe.tasks import all_tasks
from ipt.backbones.interface import TextBackbone
from ipt.evaluation.measurements import Measurement

ORDERS = ("copy", "reverse", "rotate", "ends", "head", "tail")
# One task per order: the mean of six tasks hardly depends on the processor's rounding.
UNSEEN = ("copy_mirror", "reverse_upper", "rotate_mirror", "ends_upper", "head_next", "tail_mirror")


def test_words_determine_the_letters_and_how_they_are_written() -> None:
    tasks = {task.name: task for task in all_tasks()}
    assert tasks["reverse_upper"].answer(["b", "d", "a"]) == "A D B"
    assert tasks["rotate_next"].answer(["p", "d", "a", "a"]) == "e b b a"
    assert tasks["descend_mirror"].answer(["b", "d", "a"]) == "m o p"
    assert tasks["neighbours_same"].answer(list("abcde")) == "b a d c e"
    assert tasks["count"].answer(list("abcde")) == "5"
    assert len(tasks) == 50


def test_fits_and_measurements_use_different_rows() -> None:
    task = all_tasks()[0]
    fitted, measured = pipeline.fit_part(task), pipeline.measured_part(task)
    parts = [fitted.train, measured.train, measured.test]
    assert [len(rows) for rows in parts] == [256, 128, 100]
    assert len({row.input for rows in parts for row in rows}) == 484


def test_interrupted_pretraining_gives_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY_STEPS", 2)
    options = PretrainingOptions(hidden_size=16, head_size=16, layers=1, steps=5, batch_size=4)
    tasks = all_tasks()[:6]

    def interrupt_after_four(done: int, _loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "stopped", tasks, options, interrupt_after_four)
    steps: list[int] = []
    pretrain(tmp_path / "stopped", tasks, options, lambda done, _loss: steps.append(done))
    assert steps == [5]
    pretrain(tmp_path / "undisturbed", tasks, options)
    stopped, undisturbed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "undisturbed"))
    assert stopped == undisturbed


@pytest.mark.timeout(1800)
def test_tuning_in_a_fitted_subspace_solves_unseen_tasks_and_in_a_random_one_does_not(
    tmp_path: Path,
) -> None:
    tasks = [task for task in all_tasks() if task.words[0] in ORDERS]
    options = PretrainingOptions(hidden_size=48, head_size=16, steps=1400, batch_size=48, learning_rate=3e-3)
    backbone = ipt.load_backbone(str(pretrain(tmp_path / "backbone", tasks, options)), device="cpu")
    assert isinstance(backbone, TextBackbone)
    seen = [task for task in tasks if task.name not in UNSEEN]
    pipeline.fit_directly(backbone, seen, 10, 800, tmp_path / "subspace")

    def mean(method: str) -> float:
        unseen = [task for task in tasks if task.name in UNSEEN]
        measurements = [pipeline.measure(backbone, "", tmp_path / "subspace", task, 0, [method])[1] for task in unseen]
        return statistics.mean(each.score for of_task in measurements for each in of_task)

    scores = {method: mean(method) for method in ("words", "no prompt", "random", "IST")}
    assert scores["words"] > 0.8, scores
    assert scores["no prompt"] < 0.1
    assert scores["IST"] > scores["random"] + 0.3


def test_the_report_compares_each_way_with_plain_prompt_tuning() -> None:
    def of(task: str, method: str, score: float) -> Measurement:
        return Measurement(task, task, 100, method, score, 1.0, {})

    tasks = ("copy_same", "reverse_upper", "count")
    free = [of(task, method, 0.8) for task in tasks for method in ("PT", "words", "no prompt")]
    direct = [of(task, method, 0.4) for task in tasks for method in ("IST", "random", "zero vector")]
    coded = [of(task, "IST", 0.2) for task in tasks]
    scores = Scores({WITHOUT: free, "direct 5": direct, "autoencoder 5": coded}, [5])
    text = page("origin", 1_200_000, scores, "plot.svg")
    assert "| IST, direct fit | unseen pair (1) | 40 (0.50) |" in text
    assert "| IST, auto-encoder | seen (1) | 20 (0.25) |" in text
    assert "| copy_same | seen | 80 | 80 | 40 | 40 | 40 | 80 | 0.50 |" in text
