"""Apply changes to the examples of a dataset."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from app.db.models import Kind
from app.errors import ConflictError, NotFoundError
from app.examples.rows import DatasetRow, output_of
from app.examples.schemas import ChangeInput, ExampleRef
from ipt.data.labels import labels_alike
from ipt.data.names import listed

RefT = TypeVar("RefT", bound=ExampleRef)


class Change:
    """Examples while they are changed, and a summary of what was changed."""

    def __init__(self, rows: Sequence[DatasetRow], version: int, kind: Kind = "classification") -> None:
        self.rows = list(rows)
        self._kind = kind
        self.summary: dict[str, Any] = {"version": version, "removed": 0, "relabelled": 0, "added": 0}

    def apply(self, body: ChangeInput) -> None:
        """Make all changes of a request, in the order of its fields.

        Raises:
            NotFoundError: no example has the id, the input or the label that a change names.
            ConflictError: a label would be renamed to one that exists.
        """
        removed = {row for numbers, _ in self._named(body.remove, "remove") for row in numbers}
        self.rows = [row for number, row in enumerate(self.rows) if number not in removed]
        self.summary["removed"] = len(removed)
        for numbers, relabelling in self._named(body.relabel, "relabel"):
            for number in numbers:
                self.rows[number] = self.rows[number].relabelled(relabelling.output)
            self.summary["relabelled"] += len(numbers)
        for index, renaming in enumerate(body.rename_labels):
            self._rename(renaming.label, renaming.to, f"rename_labels[{index}]")
        for index, merging in enumerate(body.merge_labels):
            self._replace_labels(merging.labels, merging.into, f"merge_labels[{index}].labels")
            self.summary.setdefault("merged", {})[merging.into] = merging.labels
        self.rows += [
            DatasetRow("examples", example.input, output_of(example.output, self._kind), self._kind)
            for example in body.add
        ]
        self.summary["added"] = len(body.add)

    def name_of(self, split: str, number: int) -> str:
        """Return how a client knows a row of a split: by its place in the change, or else by its id."""
        rows = [row for row in self.rows if row.split == split]
        added = number - (len(rows) - self.summary["added"])
        return f"add[{added}]" if split == "examples" and added >= 0 else rows[number].id

    def _named(self, refs: Sequence[RefT], param: str) -> list[tuple[list[int], RefT]]:
        """Return the numbers of the rows that references name; of two references with the same name, the last one."""
        by_name: dict[tuple[str, str], list[int]] = defaultdict(list)
        if refs:
            for number, row in enumerate(self.rows):
                by_name["id", row.id].append(number)
                by_name["input", row.input].append(number)
        for index, ref in enumerate(refs):
            field, _ = ref.name
            if ref.name not in by_name:
                raise NotFoundError(
                    f"no example of this version has this {field}; GET /v1/tasks/{{task_id}}/examples lists them",
                    code="example_not_found",
                    param=f"{param}[{index}].{field}",
                )
        return [(by_name[name], ref) for name, ref in {ref.name: ref for ref in refs}.items()]

    def _rename(self, label: str, to: str, param: str) -> None:
        others = {other for row in self.rows for other in row.labels} - {label}
        if label == to:
            raise ConflictError("the label has this name already", code="label_exists", param=f"{param}.to")
        if any(labels_alike(other, to) for other in others):
            raise ConflictError(
                "this label exists already: to put the examples of both under one label, send merge_labels",
                code="label_exists",
                param=f"{param}.to",
            )
        self._replace_labels([label], to, f"{param}.label")
        self.summary.setdefault("renamed", {})[label] = to

    def _replace_labels(self, labels: Collection[str], to: str, param: str) -> None:
        replaced = set(labels)
        labels_now = {label for row in self.rows for label in row.labels}
        if not replaced <= labels_now:
            alike = {each for each in labels_now for label in replaced if labels_alike(each, label)} - replaced
            hint = f": did you mean {listed(sorted(map(repr, alike)))}?" if alike else ""
            raise NotFoundError(f"no example has this label{hint}", code="label_not_found", param=param)
        self.rows = [row.with_labels_replaced(replaced, to) for row in self.rows]
