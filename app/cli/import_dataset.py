"""`ipt subspace import-dataset`: make a task of a dataset of the Hugging Face hub."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson
from app.cli.output import notices, print_json, results


class Split(StrEnum):
    """What a task is for."""

    SEEN = "seen"
    UNSEEN = "unseen"


def import_dataset(
    dataset: Annotated[str, typer.Argument(help="An id on the hub, or a folder.", metavar="DATASET")],
    tasks: Annotated[Path, typer.Argument(help="Folder of tasks that one is added to.", metavar="TASKS")],
    input_column: Annotated[str, typer.Option(help="The column of the texts.")] = "text",
    output_column: Annotated[str, typer.Option(help="The column of the labels, or of the texts wanted.")] = "label",
    label_names: Annotated[
        str | None, typer.Option(help="Names of the labels 0, 1, …, with commas; the dataset's own without it.")
    ] = None,
    train_split: Annotated[str, typer.Option(help="The dataset's split of training rows.")] = "train",
    test_split: Annotated[str, typer.Option(help="The dataset's split of test rows.")] = "test",
    name: Annotated[str | None, typer.Option(help="Of the task; the dataset's without it.")] = None,
    family: Annotated[str | None, typer.Option(help="Of the task; its name without it.")] = None,
    split: Annotated[Split | None, typer.Option("--as", help="What index.json says that the task is for.")] = None,
    config: Annotated[str | None, typer.Option(help="The dataset's configuration, where it has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="The hub revision of the dataset.")] = None,
    rows: Annotated[int, typer.Option(help="Most rows of each split; of more, so many are drawn.", min=4)] = 2000,
    as_json: AsJson = False,
) -> None:
    """Make a task of a dataset: a file of JSONL in a folder of tasks. Needs the extra `hub`.

    \b
    ipt subspace import-dataset org/reviews tasks/ --input-column body --output-column stars --as seen --family reviews
    """
    from ipt.data.file_formats import write_jsonl_task
    from ipt.data.hub_tasks import Columns, read_dataset

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
