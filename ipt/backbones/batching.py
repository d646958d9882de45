"""Batches with little padding: buckets of rows of similar length, padded tensors, and their way to the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ipt.runtime.work_counter import work_counter

# Arguments of `length_buckets`: most positions of a forward pass, the largest share of them that may be padding, and
# the padding that is always allowed because another pass would cost as much (on a GPU, `launch_bound_positions`).
# A CPU pays for padding in full and runs small batches well; a GPU wants few, large batches.
CPU_BUCKETS = (8192, 0.1, 32)
DEVICE_BUCKETS = (65536, 0.25)
LAUNCH_BOUND = 2.5e9
"""A layer of hidden size H computes this / H² positions on a GPU while the CPU launches the next layer.

A conservative estimate: half a millisecond a layer, 24 H² operations a position (forward), 120 TFLOP/s. An H200
computes about three times as many while the model's own Python code launches a layer.
"""


def buckets_for(lengths: Sequence[int], device: torch.device, hidden_size: int) -> list[list[int]]:
    """Split rows by `length_buckets`, with sizes that suit the device and a model of this hidden size."""
    if device.type == "cpu":
        return length_buckets(lengths, *CPU_BUCKETS)
    return length_buckets(lengths, *DEVICE_BUCKETS, launch_bound_positions(hidden_size))


def launch_bound_positions(hidden_size: int) -> int:
    """Return the positions up to which a pass on a GPU takes no longer than its kernel launches."""
    return int(LAUNCH_BOUND / hidden_size**2)


def max_positions_per_pass(device: torch.device) -> int:
    """Return the most positions of one forward pass, padding included."""
    return CPU_BUCKETS[0] if device.type == "cpu" else DEVICE_BUCKETS[0]


def forward_in_buckets(
    lengths: Sequence[int],
    prompts: Tensor | None,
    device: torch.device,
    hidden_size: int,
    forward: Callable[[list[int], Tensor | None], Tensor],
) -> Tensor:
    """Run rows bucket by bucket and return the results [B, …] in the order of the rows; gradients flow through.

    `forward` takes the row numbers of one bucket and their prompts [rows, P, H], and returns [rows, …].
    """
    buckets = buckets_for(lengths, device, hidden_size)
    work_counter.advance()
    if len(buckets) == 1:
        return forward(list(range(len(lengths))), prompts)
    order = torch.tensor([row for bucket in buckets for row in bucket])
    prompts_of_buckets: Sequence[Tensor | None] = [None] * len(buckets)
    if prompts is not None:
        prompts_of_buckets = torch.split(prompts[to_device(order, device)], [len(bucket) for bucket in buckets])
    results = []
    for bucket, bucket_prompts in zip(buckets, prompts_of_buckets, strict=True):
        results.append(forward(bucket, bucket_prompts))
        work_counter.advance()
    return torch.cat(results)[to_device(torch.argsort(order), device)]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device; to a GPU asynchronously, from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def length_buckets(
    lengths: Sequence[int], max_padded_tokens: int, max_waste: float, free_padding: int = 0
) -> list[list[int]]:
    """Split rows into buckets of similar length; every row is in exactly one bucket.

    Rows are taken from the longest down. A bucket is closed when one more row would make its padded size (rows x the
    longest row) larger than `max_padded_tokens`, or its padding larger than both `free_padding` positions and the share
    `max_waste` of the padded size. A single row may exceed `max_padded_tokens`.
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


def consecutive_chunks(sizes: Sequence[int], limit: int) -> list[slice]:
    """Split items of these sizes into consecutive chunks of at most `limit` in total; a single item may exceed it."""
    chunks: list[slice] = []
    filled = 0
    for number, size in enumerate(sizes):
        if chunks and filled + size <= limit:
            chunks[-1] = slice(chunks[-1].start, number + 1)
            filled += size
        else:
            chunks.append(slice(number, number + 1))
            filled = size
    return chunks


def right_padded(rows: Sequence[Sequence[int]], padding: int = 0, *, min_width: int = 0) -> tuple[Tensor, Tensor]:
    """Return rows as one right-padded integer tensor [B, T] and their lengths [B], both on the CPU."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    width = max(int(lengths.max(initial=0)), min_width)
    filled = np.full((len(rows), width), padding, dtype=np.int64)
    # PyTorch is several times slower at making a tensor of a list of lists.
    filled[np.arange(width) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(filled), torch.from_numpy(lengths)
