"""Random, opaque ids with a prefix for the kind of object."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """Return `prefix_` and 24 random characters: 124 bits, so an id cannot be guessed."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))
