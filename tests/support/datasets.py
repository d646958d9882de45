"""Small datasets for tuning a tiny model."""

import ipt

POSITIVE = ["good movie", "great food i love it", "fine place and happy staff", "i like the new phone", "love this app"]


NEGATIVE = ["bad movie", "awful food i hate it", "the room is sad and slow", "the old phone is broken", "hate this app"]


BILLING = [
    "charged twice on my card",
    "refund the invoice please",
    "money paid twice",
    "bill is not right",
    "card error",
]


def sentiment(repeats: int = 2) -> list[ipt.Example]:
    """Return ten examples of two labels for each repeat."""
    rows = [(text, "positive") for text in POSITIVE] + [(text, "negative") for text in NEGATIVE]
    return [ipt.Example(f"{text} {'really ' * turn}".strip(), label) for turn in range(repeats) for text, label in rows]


def topics() -> list[ipt.Example]:
    """Return five examples of each of three labels; their lengths differ from those of `sentiment`."""
    return [
        ipt.Example(f"hello , {text} , thanks", label)
        for label, texts in (("praise", POSITIVE), ("complaint", NEGATIVE), ("billing", BILLING))
        for text in texts
    ]
