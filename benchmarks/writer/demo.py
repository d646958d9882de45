"""What a model that writes learns from 32 examples: three tasks of this project, before and after tuning.

    python -m benchmarks.writer.demo [--subspace FOLDER]

Each task is answered with the untuned zero vector, after an instruction, after the same examples in context, and with
the vector that is tuned on the examples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import ipt
from app.cli.output import results
from benchmarks.machine import ROOT
from benchmarks.writer.context import answers_after, tokens_of_examples, tokens_of_instruction
from ipt.backbones.interface import TextBackbone
from ipt.data.files.reader import read_dataset_file
from ipt.errors import IptError
from ipt.generation.json_format import JsonSchema
from ipt.tuning.text_scores import mean_scores

TRAINED = 32
CONTEXT_TOKENS = 1024
SHOWN = 3
ORDER_SCHEMA = {
    "type": "object",
    "properties": {"product": {"type": "string"}, "count": {"type": "integer"}, "date": {"type": "string"}},
    "required": ["product", "count", "date"],
}


@dataclass(frozen=True)
class DemoTask:
    """A dataset of `examples/`, the instruction for it, and the schema of its outputs if they are JSON."""

    name: str
    instruction: str
    schema: dict[str, Any] | None = None


TASKS = (
    DemoTask("order_mails", "Write the product, the count and the date of the order as JSON.", ORDER_SCHEMA),
    DemoTask("polite_requests", "Rewrite the request politely."),
    DemoTask("sentence_correction", "Correct the grammar and the spelling of the sentence."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writer.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="smollm2", help="name, folder or GGUF file of a backbone that writes")
    parser.add_argument("--subspace", default="default", help="'default', or the folder of a subspace")
    parser.add_argument("--examples", type=Path, default=ROOT / "examples", help="folder of the three datasets")
    parser.add_argument("--steps", type=int, help="most tuning steps (default: those of an adaptation)")
    parser.add_argument("--device", help="cpu, cuda, … (default: the best available device)")
    args = parser.parse_args(arguments)
    try:
        backbone = ipt.load_backbone(args.backbone, device=args.device)
        if not isinstance(backbone, TextBackbone):
            raise IptError(f"backbone {args.backbone!r} is an encoder: name one that writes")
        demo = Demo(backbone, ipt.load_subspace(args.subspace, backbone), args.steps)
        for task in TASKS:
            demo.show(task, read_dataset_file(args.examples / f"{task.name}.jsonl").examples)
    except IptError as error:
        sys.exit(f"error: {error.message}")


class Demo:
    """Tunes and answers tasks, and prints the scores."""

    def __init__(self, backbone: TextBackbone, subspace: ipt.Subspace, steps: int | None) -> None:
        self._backbone = backbone
        self._plain = backbone.placed("user_turn" if backbone.tokenizer.chat_template else "before_input")
        self._context_tokens = min(CONTEXT_TOKENS, self._plain.max_positions // 2)
        self._subspace = subspace
        defaults = ipt.Hyperparameters.defaults("text2text")
        self._hyperparameters = defaults if steps is None else replace(defaults, steps=steps)
        self._predictor = ipt.Predictor(backbone, subspace)
        self._console = results()

    def show(self, task: DemoTask, rows: Sequence[ipt.Example]) -> None:
        """Tune one task on the first rows of its dataset, and print how the others are answered."""
        console = self._console
        examples, new = list(rows[:TRAINED]), rows[TRAINED:]
        texts, targets = [row.input for row in new], [row.output for row in new]
        console.print(f"\n[bold]{task.name}[/bold]: {len(examples)} examples, {len(texts)} new texts")
        began = time.monotonic()
        with console.status("tuning"):
            tuned = ipt.adapt(
                self._backbone,
                self._subspace,
                examples,
                kind="text2text",
                hyperparameters=self._hyperparameters,
            )
        seconds = time.monotonic() - began
        untuned = ipt.TaskHead(np.zeros_like(tuned.head.vector), self._subspace.id, "text2text", (), None)
        with console.status("answering"):
            answers = {
                "untuned": self._predict(untuned, texts),
                "instruction": self._after(tokens_of_instruction(self._plain, task.instruction), examples, texts),
                "examples in context": self._after(
                    tokens_of_examples(self._plain, examples, self._context_tokens, seed=0), examples, texts
                ),
                f"tuned, {tuned.head.vector.size} numbers": self._predict(tuned.head, texts),
            }
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("", "exact match", "token F1", "ROUGE-L"):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for method, of_method in answers.items():
            scores = mean_scores(of_method, targets)
            table.add_row(Text(method), *(f"{100 * score:.0f} %" for score in scores.values()))
        console.print(table)
        for number in range(min(SHOWN, len(texts))):
            lines = [f"  {texts[number]}"]
            lines += [f"    {method}: {' '.join(of_method[number].split())}" for method, of_method in answers.items()]
            console.print(Text("\n".join(lines)), soft_wrap=True)
        console.print(f"  tuned in {seconds:.0f} s")
        if task.schema is not None:
            written = self._as_json(tuned.head, task.schema, texts)
            scores = mean_scores(written, targets)
            fitting = sum(_is_order(text) for text in written)
            console.print(
                f"  with a JSON schema: {fitting} of {len(texts)} answers parse and fit, "
                f"exact match {100 * scores['exact_match']:.0f} %"
            )

    def _predict(self, head: ipt.TaskHead, texts: Sequence[str]) -> list[str]:
        return [answer.text or "" for answer in self._predictor.predict([(head, text) for text in texts])]

    def _after(self, ids: Sequence[int], examples: Sequence[ipt.Example], texts: Sequence[str]) -> list[str]:
        assert isinstance(self._plain, TextBackbone)
        return answers_after(self._plain, ids, examples, texts)

    def _as_json(self, head: ipt.TaskHead, schema: dict[str, Any], texts: Sequence[str]) -> list[str]:
        """Return greedy answers that fit the schema."""
        engine = ipt.GenerationEngine(self._backbone, self._subspace, batch_rows=16)
        parameters = ipt.GenerationParameters(engine.default_new_tokens, json_schema=JsonSchema.of(schema))
        task = self._predictor.bind(head)
        for number, text in enumerate(texts):
            engine.add(ipt.GenerationRequest(str(number), task, text, parameters))
        written: dict[str, str] = {}
        while not engine.idle:
            for event in engine.step():
                if isinstance(event, ipt.TextFinished):
                    written[event.request_id] = event.text
        return [written[str(number)] for number in range(len(texts))]


def _is_order(text: str) -> bool:
    """Return whether a text is JSON of `ORDER_SCHEMA`."""
    try:
        order = json.loads(text)
    except ValueError:
        return False
    if not isinstance(order, dict) or order.keys() != ORDER_SCHEMA["properties"].keys():
        return False
    types = {"product": str, "count": int, "date": str}
    return all(isinstance(order[name], kind) for name, kind in types.items())


if __name__ == "__main__":
    main()
