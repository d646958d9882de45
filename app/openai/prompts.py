"""The customs of OpenAI's legacy fine-tuning format: separators behind prompts, stop sequences behind completions."""

from collections.abc import Sequence

_SEPARATORS = ("###", "->", "=>")
_STOP_SEQUENCES = ("###", "END", "<|endoftext|>")


def strip_prompt(prompt: str) -> str:
    """Return a prompt without its separator, by the same rule in tuning and in answering.

    A prompt that consists of a separator only is returned as it is.
    """
    text = prompt.strip()
    for separator in _SEPARATORS:
        if text.endswith(separator):
            return text.removesuffix(separator).rstrip() or prompt
    return text or prompt


def strip_stop_sequences(completions: Sequence[str]) -> tuple[list[str], str | None]:
    """Return completions without surrounding white space and without a stop sequence that all of them end with.

    Also returns that stop sequence, None if they share none.
    """
    texts = [completion.strip() for completion in completions]
    for sequence in _STOP_SEQUENCES:
        if all(text.endswith(sequence) and text.removesuffix(sequence).strip() for text in texts):
            return [text.removesuffix(sequence).rstrip() for text in texts], sequence
    return texts, None
