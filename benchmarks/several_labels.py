"""Several labels at once on real reviews, against one-vs-rest logistic regression on frozen embeddings.

    python -m benchmarks.several_labels TASKS [--steps 20]

TASKS is a folder with absa_restaurant_aspects.jsonl: sentences of restaurant reviews, and the aspects that annotators
marked in them. The labels are the aspects that at least 12 sentences name, so a sentence has any number of them. Prints
a table of F1 on the test rows. Needs scikit-learn, which chooses each regression's penalty by cross-validation.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV

import ipt
from benchmarks.engines.backbones import load_minilm
from benchmarks.machine import provenance
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder

TASK = "absa_restaurant_aspects"
SENTENCES_PER_LABEL = 12
TRAIN_ROWS = 160
SEED = 100


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.several_labels", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help=f"folder of tasks with {TASK}.jsonl")
    parser.add_argument("--steps", type=int, default=ipt.Hyperparameters().steps, help="most steps of tuning")
    args = parser.parse_args(arguments)
    [task] = [task for task in read_task_folder(args.tasks).tasks if task.name == TASK]
    train, test = with_label_sets(task)
    backbone = load_minilm(None, "cpu")
    predictor = ipt.Predictor(backbone, ipt.load_subspace("default", backbone))
    adapted = ipt.adapt(
        backbone,
        predictor.subspace,
        train,
        kind="multilabel",
        hyperparameters=ipt.Hyperparameters(steps=args.steps),
    )
    head = predictor.bind(adapted.head)
    answers = {
        "tuned": predictor.predict([(head, example.input) for example in test]),
        "one-vs-rest logistic regression": logistic_regression(predictor, train, test),
    }
    print(provenance(f"python -m benchmarks.several_labels TASKS --steps {args.steps}"))
    print(f"{len(train)} examples, {len(test)} test rows, labels {', '.join(adapted.head.labels)}; {adapted.metrics}")
    for name, predictions in answers.items():
        summary = ipt.multilabel_report(test, predictions).summary
        print(
            f"{name:34} micro F1 {summary.micro_f1:.3f}  macro F1 {summary.macro_f1:.3f}  "
            f"samples F1 {summary.samples_f1:.3f}  all labels right {summary.subset_accuracy:.3f}"
        )


def with_label_sets(task: TaskDataset) -> tuple[list[ipt.Example], list[ipt.Example]]:
    """Return `TRAIN_ROWS` rows and all others, with the frequent ones of their aspects as labels."""
    rows = [
        (row.input, {aspect.strip().lower() for aspect in row.output.split(",")}) for row in (*task.train, *task.test)
    ]
    random.Random(SEED).shuffle(rows)
    counts = Counter(aspect for _, aspects in rows for aspect in aspects)
    labels = {aspect for aspect, count in counts.items() if count >= SENTENCES_PER_LABEL and aspect != "none"}
    examples = [ipt.Example.with_labels(text, sorted(aspects & labels)) for text, aspects in rows]
    return examples[:TRAIN_ROWS], examples[TRAIN_ROWS:]


def logistic_regression(
    predictor: ipt.Predictor, train: Sequence[ipt.Example], test: Sequence[ipt.Example]
) -> list[ipt.Prediction]:
    """Answer the test rows with a regression per label, which answers a label from a probability of one half."""
    known, asked = (np.stack(predictor.embed_frozen([example.input for example in rows])) for rows in (train, test))
    probabilities = {}
    for label in sorted({label for example in train for label in example.labels}):
        has_label = [label in example.labels for example in train]
        regression = LogisticRegressionCV(
            Cs=np.logspace(-1, 4, 6), l1_ratios=(0,), cv=3, scoring="f1", max_iter=1000, use_legacy_attributes=False
        )
        probabilities[label] = regression.fit(known, has_label).predict_proba(asked)[:, 1].tolist()
    scores = [{label: of_rows[row] for label, of_rows in probabilities.items()} for row in range(len(test))]
    return [
        ipt.Prediction(scores=of_row, labels=tuple(label for label in of_row if of_row[label] >= 0.5))
        for of_row in scores
    ]


if __name__ == "__main__":
    main()
