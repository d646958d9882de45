"""Which rows of a batch are forwarded together, so that little of the work is padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

# Most positions of one forward pass, the largest share of them that may be padding, and how many may be in any case,
# because a pass of its own would cost as much: on a device, `launch_bound_positions`. On a CPU padding is paid in full
# and small batches cost little; a device wants few, large ones.
CPU_BUCKETS = (8192, 0.1, 32)
DEVICE_BUCKETS = (65536, 0.25)
LAUNCH_BOUND = 2.5e9
"""Of a device: a layer of hidden size H does this / H² positions while the next one is launched, by a modest estimate.

Half a millisecond a layer, 24 H² operations a position (forward), 120 TFLOP/s. An H200 with the model's own Python does
about three times as many.
"""


def buckets_for(lengths: Sequence[int], device: torch.device, hidden_size: int) -> list[list[int]]:
    """`length_buckets` with the sizes that suit the device and a model of that hidden size."""
    if device.type == "cpu":
        return length_buckets(lengths, *CPU_BUCKETS)
    return length_buckets(lengths, *DEVICE_BUCKETS, launch_bound_positions(hidden_size))


def launch_bound_positions(hidden_size: int) -> int:
    """Positions up to which a pass on a device takes no longer than its launches do."""
    return int(LAUNCH_BOUND / hidden_size**2)


def max_positions_per_pass(device: torch.device) -> int:
    """Of one forward pass, padding included."""
    return CPU_BUCKETS[0] if device.type == "cpu" else DEVICE_BUCKETS[0]


def forward_in_buckets(
    lengths: Sequence[int],
    prompts: Tensor | None,
    device: torch.device,
    hidden_size: int,
    forward: Callable[[list[int], Tensor | None], Tensor],
) -> Tensor:
    """Results `[B, …]` of rows forwarded bucket by bucket, in the rows' order; gradients flow through.

    `forward` is given the rows of one bucket and their prompts `[rows, P, H]`, and answers `[rows, …]`.
    """
    buckets = buckets_for(lengths, device, hidden_size)
    if len(buckets) == 1:
        return forward(list(range(len(lengths))), prompts)
    order = torch.tensor([row for bucket in buckets for row in bucket])
    picked: Sequence[Tensor | None] = [None] * len(buckets)
    if prompts is not None:
        picked = torch.split(prompts[to_device(order, device)], [len(bucket) for bucket in buckets])
    results = [forward(bucket, own) for bucket, own in zip(buckets, picked, strict=True)]
    return torch.cat(results)[to_device(torch.argsort(order), device)]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor of the CPU on the device; to a GPU it travels from pinned memory, and nobody waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def length_buckets(
    lengths: Sequence[int], max_padded_tokens: int, max_waste: float, free_padding: int = 0
) -> list[list[int]]:
    """Split rows into buckets of similar length; every row is in exactly one bucket.

    Rows are taken from the longest down. A bucket is closed when one more row would make it larger than
    `max_padded_tokens` (rows x its longest row; a single row may exceed it), or would make padding of more than
    `free_padding` positions and more than the share `max_waste` of them all. The result depends on nothing but the
    arguments.
    """
    order: list[int] = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    longest = max(lengths, default=0)
    padded = len(lengths) * longest
    if padded <= max_padded_tokens and padded - sum(lengths) <= max(max_waste * padded, free_padding):
        return [order] if order else []  # the share of padding only grows from row to row, so no bucket was closed
    buckets: list[list[int]] = []
    longest = filled = 0
    for row in order:
        length = lengths[row]
        if buckets:
            padded = (len(buckets[-1]) + 1) * longest
            if padded <= max_padded_tokens and padded - (filled + length) <= max(max_waste * padded, free_padding):
                buckets[-1].append(row)
                filled += length
                continue
        buckets.append([row])
        longest = filled = length
    return buckets


def consecutive_chunks(sizes: Sequence[int], most: int) -> list[slice]:
    """Things of these sizes in their order, cut into stretches of at most `most` in all; a single one may exceed it."""
    stretches: list[slice] = []
    filled = 0
    for number, size in enumerate(sizes):
        if stretches and filled + size <= most:
            stretches[-1] = slice(stretches[-1].start, number + 1)
            filled += size
        else:
            stretches.append(slice(number, number + 1))
            filled = size
    return stretches


def right_padded(rows: Sequence[Sequence[int]], padding: int = 0, *, least_width: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one tensor of integers `[B, T]`, filled up at the end, and their lengths `[B]`; both on the CPU."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    width = max(int(lengths.max(initial=0)), least_width)
    filled = np.full((len(rows), width), padding, dtype=np.int64)
    # Of a list of lists PyTorch makes a tensor several times as slowly.
    filled[np.arange(width) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(filled), torch.from_numpy(lengths)
