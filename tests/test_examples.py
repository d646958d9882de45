"""The datasets under examples/ are valid and listed in their README."""

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

import ipt
from app.cli.dataset_file import read_dataset, rows_of
from benchmarks.writer.demo import TASKS, DemoTask

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "labels", "least_per_label"),
    [("support_tickets.jsonl", 6, 24), ("reviews.jsonl", 3, 24), ("intents.csv", 12, 16)],
)
def test_an_example_dataset_is_valid(name: str, labels: int, least_per_label: int) -> None:
    rows = rows_of(read_dataset(FOLDER / name))
    counts = Counter(row["output"] for row in rows)
    texts = [row["input"].casefold() for row in rows]
    assert len(counts) == labels
    assert min(counts.values()) >= least_per_label
    assert len(set(texts)) == len(texts), "duplicate texts"
    assert all(text == text.strip() for text in texts)
    examples = [ipt.Example(row["input"], row["output"]) for row in rows]
    assert ipt.check_examples(examples, None, None) == "classification"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_an_example_dataset_of_texts_is_valid(task: DemoTask) -> None:
    examples = read_dataset(FOLDER / f"{task.name}.jsonl").examples
    assert len({example.input for example in examples}) == len(examples) == 48
    assert ipt.check_examples(examples, None, None) == "text2text"
    if task.schema is not None:
        for example in examples:
            jsonschema.validate(json.loads(example.output), task.schema)


def test_the_readme_lists_every_file() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in FOLDER.iterdir() if path.suffix != ".md"]
    assert files
    assert [name for name in files if f"`{name}`" not in readme] == []


def test_the_csv_has_texts_with_quoted_commas() -> None:
    assert any("," in row["input"] for row in rows_of(read_dataset(FOLDER / "intents.csv")))
