"""Random, opaque ids with a prefix for the kind of object."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str, separator: str = "_") -> str:
    """Return `prefix`, the separator and 24 random characters: 124 bits, so an id cannot be guessed."""
    return prefix + separator + "".join(secrets.choice(_ALPHABET) for _ in range(24))
