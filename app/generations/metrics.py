"""What is counted of generations."""

from collections.abc import Sequence
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

import ipt
from ipt.generation.events import FinishReason

_TEXTS = Counter("ipt_generations_total", "Texts that have ended, by how.", ["reason"])
for _reason in get_args(FinishReason):
    _TEXTS.labels(_reason)
_TOKENS = Counter("ipt_generation_tokens_total", "Tokens that were written.")
_TRUNCATED = Counter("ipt_generation_truncated_inputs_total", "Inputs that were too long to be read whole.")
_ROWS = Histogram(
    "ipt_generation_batch_rows",
    "Rows that one step has written a token of, beams included.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
_ROW_LIMIT = Gauge("ipt_generation_row_limit", "Rows that are taken at a time; fewer after memory has run out.")
_PROMPTS = Counter("ipt_generation_prompts_total", "Prompts that texts were begun behind, by where from.", ["source"])
_KEPT, _COMPUTED = _PROMPTS.labels("kept"), _PROMPTS.labels("computed")


def stepped(engine: ipt.GenerationEngine, hits: int, misses: int) -> None:
    """Count one step, which found so many prompts kept and computed so many."""
    _ROWS.observe(engine.last_rows)
    _ROW_LIMIT.set(engine.row_limit)
    _KEPT.inc(hits)
    _COMPUTED.inc(misses)


def ended(texts: Sequence[ipt.TextFinished]) -> None:
    """Count texts that have ended."""
    for text in texts:
        _TEXTS.labels(text.reason).inc()
        _TOKENS.inc(text.generated_tokens)
        _TRUNCATED.inc(text.truncated)
