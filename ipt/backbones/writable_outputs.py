"""Find output texts that a backbone's tokenizer cannot write back, such as line breaks or unknown scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ipt.backbones.interface import Backbone
from ipt.backbones.text_backbone import PromptedTextBackbone

_MOST_OUTPUTS = 200
_MOST_CHARS = 2_000
_MOST_NAMED = 10
_NAMES = {"\n": "line breaks", "\t": "tabs"}


def unwritable_outputs_warning(backbone: Backbone, outputs: Sequence[str]) -> str | None:
    """Return a warning with the share of outputs that lose characters in the tokenizer; None if all are kept.

    Blanks are not compared: tokenizers may change them around punctuation. Of many or long outputs only the first ones
    and their beginnings are read.
    """
    if not isinstance(backbone, PromptedTextBackbone):
        return None
    compared = [output[:_MOST_CHARS] for output in outputs[:_MOST_OUTPUTS]]
    lost = [_characters(text) - _characters(_written_back(backbone, text)) for text in compared]
    affected = sum(map(bool, lost))
    if not affected:
        return None
    most_frequent = sum(lost, Counter[str]()).most_common(_MOST_NAMED)
    named = ", ".join(_NAMES.get(character, repr(character)) for character, _ in most_frequent)
    return (
        f"the backbone cannot write {affected} of {len(compared)} outputs ({affected / len(compared):.0%}) exactly: "
        f"its tokenizer loses {named}; replace these characters by others in the outputs"
    )


def _written_back(backbone: PromptedTextBackbone, text: str) -> str:
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return backbone.decode(ids)


def _characters(text: str) -> Counter[str]:
    return Counter(character for character in text if character in _NAMES or not character.isspace())
