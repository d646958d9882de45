"""Which rows of a batch are forwarded together, so that little of the work is padding."""

from __future__ import annotations

from collections.abc import Sequence


def length_buckets(lengths: Sequence[int], max_padded_tokens: int, max_waste: float) -> list[list[int]]:
    """Split rows into buckets of similar length; every row is in exactly one bucket.

    Rows are taken from the longest down. A bucket is closed when one more row would make it larger than
    `max_padded_tokens` (rows x its longest row; a single row may exceed it) or would make more than the share
    `max_waste` of its positions padding. The result depends on nothing but the arguments.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    buckets: list[list[int]] = []
    longest = filled = 0
    for row in order:
        length = lengths[row]
        if buckets:
            padded = (len(buckets[-1]) + 1) * longest
            if padded <= max_padded_tokens and padded - (filled + length) <= max_waste * padded:
                buckets[-1].append(row)
                filled += length
                continue
        buckets.append([row])
        longest = filled = length
    return buckets
