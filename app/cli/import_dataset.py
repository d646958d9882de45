"""`ipt subspace import-dataset`: convert a dataset of the Hugging Face hub to a task."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson
from app.cli.output import notices, print_json, results


class Split(StrEnum):
    """Whether subspaces may be fitted on a task."""

    SEEN = "seen"
    UNSEEN = "unseen"


def import_dataset(
    dataset: Annotated[str, typer.Argument(help="A hub id, or a folder.", metavar="DATASET")],
    tasks: Annotated[Path, typer.Argument(help="Folder that the task is added to.", metavar="TASKS")],
    input_column: Annotated[str, typer.Option(help="Column of the input texts.")] = "text",
    output_column: Annotated[str, typer.Option(help="Column of the labels or output texts.")] = "label",
    label_names: Annotated[
        str | None, typer.Option(help="Names of the labels 0, 1, …, separated by commas. Default: from the dataset.")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Dataset split with the training rows.")] = "train",
    test_split: Annotated[str, typer.Option(help="Dataset split with the test rows.")] = "test",
    name: Annotated[str | None, typer.Option(help="Name of the task. Default: that of the dataset.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of the task. Default: its name.")] = None,
    split: Annotated[Split | None, typer.Option("--as", help="Split of the task in index.json.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the dataset, if it has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the dataset.")] = None,
    rows: Annotated[int, typer.Option(help="Most rows per split; more are sampled down.", min=4)] = 2000,
    as_json: AsJson = False,
) -> None:
    """Convert a dataset to a task: a JSONL file in a folder of tasks. Needs the extra `hub`.

    \b
    ipt subspace import-dataset org/reviews tasks/ --input-column body --output-column stars --as seen --family reviews
    """
    from ipt.data.hub_tasks import Columns, read_dataset
    from ipt.data.task_files import write_jsonl_task

    columns = Columns(
        input_column, output_column, label_names.split(",") if label_names else None, train_split, test_split
    )
    task_name = name or Path(dataset).name
    task = read_dataset(
        dataset,
        columns,
        name=task_name,
        family=family or task_name,
        config=config,
        revision=revision,
        most_rows=rows,
    )
    file = write_jsonl_task(tasks, task, split)
    if as_json:
        print_json({"file": str(file), "train": len(task.train), "test": len(task.test), "notes": task.notes})
        return
    for note in task.notes:
        notices().print(note, soft_wrap=True)
    results().print(f"{len(task.train)} training and {len(task.test)} test rows in {file}", soft_wrap=True)
