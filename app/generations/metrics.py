"""Prometheus metrics of generations."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

import ipt
from ipt.generation.events import FinishReason

_TEXTS = Counter("ipt_generations_total", "Texts that have ended, by reason.", ["reason"])
for _reason in get_args(FinishReason):
    _TEXTS.labels(_reason)
_TOKENS = Counter("ipt_generation_tokens_total", "Tokens generated.")
_TRUNCATED = Counter("ipt_generation_truncated_inputs_total", "Inputs that were too long to be read completely.")
_ROWS = Histogram(
    "ipt_generation_batch_rows",
    "Rows in one decoding step, beams included.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
_ROW_LIMIT = Gauge("ipt_generation_row_limit", "Most rows in a batch; lowered after running out of memory.")
_PROMPTS = Counter("ipt_generation_prompts_total", "Prompt caches used to start texts, by source.", ["source"])
_KEPT, _COMPUTED = _PROMPTS.labels("kept"), _PROMPTS.labels("computed")


def count_step(engine: ipt.GenerationEngine, hits: int, misses: int) -> None:
    """Count one step, with its hits and misses in the prompt cache."""
    _ROWS.observe(engine.last_rows)
    _ROW_LIMIT.set(engine.row_limit)
    _KEPT.inc(hits)
    _COMPUTED.inc(misses)


def count_ended(text: ipt.TextFinished) -> None:
    """Count a text that has ended."""
    _TEXTS.labels(text.reason).inc()
    _TOKENS.inc(text.generated_tokens)
    _TRUNCATED.inc(text.truncated)
