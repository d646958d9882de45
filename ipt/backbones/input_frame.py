"""What stands around prompt and input of a decoder-only backbone: nothing, or a user's turn of the chat template.

In a user's turn, the prompt and a line break stand before the input. The line break is vLLM's: it joins the parts of a
message with one, so an exported prompt meets the same tokens there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipt.backbones.interface import PLAIN_TEMPLATE, TokenIds
from ipt.backbones.weight_files import first_line
from ipt.errors import BackboneError

SEPARATOR = "\n"
"""Stands between the prompt and the input of a user's turn."""
CONTENT = "\ue000content\ue001"
"""A content that no chat template has in its own text."""


@dataclass(frozen=True)
class InputFrame:
    """The tokens of a row before its prompt and after its input, and the text between the two."""

    before: TokenIds
    after: TokenIds
    separator: str
    template: str
    """The whole row as text, with the placeholders {prompt} and {input}; part of a subspace's id."""


PLAIN_FRAME = InputFrame([], [], "", PLAIN_TEMPLATE)


def frame_of(placement: str, tokenizer: Any, name: str) -> InputFrame:
    """Return the frame of a prompt placement: a user's turn for `user_turn`, and in layers if there is a template."""
    if placement == "user_turn":
        return user_turn(tokenizer, name)
    if placement == "every_layer" and tokenizer.chat_template:
        return user_turn(tokenizer, name, with_prompt=False)
    return PLAIN_FRAME


def user_turn(tokenizer: Any, name: str, *, with_prompt: bool = True) -> InputFrame:
    """Return the frame of a user's turn, followed by the opening of the answer.

    Args:
        with_prompt: whether the turn holds a prompt before the input.

    Raises:
        BackboneError: the tokenizer has no chat template, or its template fails on one message of a user.
    """
    if not tokenizer.chat_template:
        raise BackboneError(
            f"{name} has no chat template, which the prompt placement user_turn needs: choose before_input, or a model "
            "that is tuned for chats",
            param="prompt_placement",
        )
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": CONTENT}], tokenize=False, add_generation_prompt=True
        )
        before, after = rendered.split(CONTENT)
    except Exception as error:  # the template is code that comes with the model
        raise BackboneError(
            f"the chat template of {name} cannot show one message of a user ({first_line(error)}): choose the prompt "
            "placement before_input",
            param="prompt_placement",
        ) from error
    before_ids, after_ids = tokenizer([before, after], add_special_tokens=False)["input_ids"]
    if not with_prompt:
        return InputFrame(before_ids, after_ids, "", f"{before}{{input}}{after}")
    return InputFrame(before_ids, after_ids, SEPARATOR, f"{before}{{prompt}}{SEPARATOR}{{input}}{after}")
