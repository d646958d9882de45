"""Read the examples of a local dataset file as JSON rows."""

from pathlib import Path

from app.cli.output import CliError

Row = dict[str, str]


def read_dataset(path: Path) -> list[Row]:
    """Return the file's rows as ``{"input": …, "output": …}``.

    Raises:
        CliError: the file cannot be read or parsed; the message names file, line and column.
    """
    from ipt.data.files.reader import read_dataset_file
    from ipt.errors import DatasetError

    try:
        examples = read_dataset_file(path).examples
    except DatasetError as error:
        raise CliError(error.message) from error
    return [{"input": example.input, "output": example.output} for example in examples]
