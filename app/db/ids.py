"""Random, opaque ids with a prefix that says what they name."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """`prefix_` and 24 characters, 124 bits of chance: not to be guessed, not to be ordered."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))
