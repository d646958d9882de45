"""Runs units of work of many jobs on the backbone, in shared passes that fit into the device's memory.

Letters: B rows, L lanes of all jobs, D intrinsic dimension, P prompt length.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from ipt.backbones.batching import consecutive_chunks, to_device
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone, TokenIds
from ipt.runtime.memory import positions_with_gradients, positions_without_gradients
from ipt.subspace.subspace import Subspace
from ipt.tuning.losses import TEXT_LABEL_SMOOTHING
from ipt.tuning.optimizer import update_lanes
from ipt.tuning.work_units import NO_PROMPT, Forward, Generate, GradientStep, Result, ScoreLabels

# Losses [L] and gradients [L, D] of some lanes.
LossesAndGradients = tuple[Tensor, Tensor]


class WorkRunner:
    """Runs work on one backbone and the decoder of one subspace, both frozen."""

    def __init__(self, backbone: Backbone, subspace: Subspace) -> None:
        self.backbone = backbone
        self.subspace = subspace
        self.max_positions = positions_with_gradients(backbone)
        """Positions (prompts, inputs and targets) of one pass with gradients."""
        self.max_positions_without_gradients = positions_without_gradients(backbone)
        self._last_copy: torch.cuda.Event | None = None

    def fits_one_pass(self, step: GradientStep) -> bool:
        """Return whether memory has room for the whole gradient step in one pass."""
        return self._positions(step) <= self.max_positions

    def take_steps(self, steps: Sequence[GradientStep]) -> Sequence[Tensor]:
        """Take gradient steps that fit one pass each; return the losses [L] of each, on the CPU.

        All lanes share one forward and one backward pass, or several of whole steps if memory requires it. On a GPU
        nothing in here waits for the device.
        """
        positions = [self._positions(step) for step in steps]
        parts = [self.gradients(steps[chunk]) for chunk in consecutive_chunks(positions, self.max_positions)]
        losses = self._update(steps, parts)
        return torch.split(losses, [step.state.vectors.shape[0] for step in steps])

    def take_step_in_passes(self, step: GradientStep) -> Iterator[Tensor | None]:
        """Take a gradient step that does not fit one pass; yield None after each pass, and finally its losses [L]."""
        parts: list[LossesAndGradients] = []
        lanes = step.split_lanes()
        positions = [self._positions(lane) for lane in lanes]
        for chunk in consecutive_chunks(positions, self.max_positions):
            if positions[chunk.start] <= self.max_positions:
                parts.append(self.gradients(lanes[chunk]))
                yield None
            else:
                parts.append((yield from self.gradients_of_large_lane(lanes[chunk.start])))
        yield self._update([step], parts)

    def _update(self, steps: Sequence[GradientStep], parts: Sequence[LossesAndGradients]) -> Tensor:
        """Take one optimizer step in all lanes; return their losses [L], on the CPU."""
        losses, gradients = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        update_lanes([step.state for step in steps], gradients, [step.learning_rate for step in steps])
        return self._to_host(losses)

    def gradients(self, steps: Sequence[GradientStep]) -> LossesAndGradients:
        """Compute the losses and gradients of all lanes in one pass."""
        vectors = torch.cat([step.state.vectors for step in steps]).detach().requires_grad_(True)
        outputs = self._outputs(steps, self.subspace.decoder(vectors), TEXT_LABEL_SMOOTHING)
        losses = type(steps[0].loss).of_lanes([step.loss for step in steps], outputs)
        (gradients,) = torch.autograd.grad(losses.sum(), vectors)
        return losses.detach(), gradients

    def gradients_of_large_lane(self, step: GradientStep) -> Generator[None, None, LossesAndGradients]:
        """Compute the loss and gradient of a single lane in several passes, with a pause after each.

        A first read of all rows without gradients gives the derivative of the loss with respect to each row's output.
        A second read with gradients weights each row's gradient by that derivative (Gao et al., "Scaling Deep
        Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983, 3.2). An additive loss skips the
        first read.
        """
        outputs = torch.zeros(len(step.inputs), device=step.state.vectors.device)
        if not step.loss.is_additive:
            passes = []
            for rows in self._chunks(step, self.max_positions_without_gradients):
                with torch.no_grad():
                    passes.append(self._outputs([rows], self.subspace.decoder(rows.vectors), TEXT_LABEL_SMOOTHING))
                yield
            outputs = torch.cat(passes)
        outputs.requires_grad_(True)
        (derivatives,) = torch.autograd.grad(step.loss.of_lanes([step.loss], outputs).sum(), outputs)
        gradient = torch.zeros_like(step.state.vectors)
        second_outputs = []
        done = 0
        for rows in self._chunks(step, self.max_positions):
            vector = rows.vectors.detach().requires_grad_(True)
            chunk = self._outputs([rows], self.subspace.decoder(vector), TEXT_LABEL_SMOOTHING)
            (partial_gradient,) = torch.autograd.grad(chunk, vector, derivatives[done : done + len(chunk)])
            gradient += partial_gradient
            second_outputs.append(chunk.detach())
            done += len(chunk)
            yield
        return step.loss.of_lanes([step.loss], torch.cat(second_outputs)), gradient

    @torch.no_grad()
    def forward(self, works: Sequence[Forward]) -> list[Tensor]:
        """Return the backbone's outputs for each unit's rows.

        Rows with a prompt share one pass, rows without one another. If memory has no room for that, several passes
        take whole units; loops never request a unit that is too large by itself.
        """
        results: dict[int, Tensor] = {}
        for without_prompt in (False, True):
            group = [work for work in works if (NO_PROMPT in work.lanes) == without_prompt]
            positions = [self._positions(work) for work in group]
            for chunk in consecutive_chunks(positions, self.max_positions_without_gradients):
                units = group[chunk]
                prompts = None if without_prompt else self.subspace.decoder(torch.cat([work.vectors for work in units]))
                outputs = torch.split(self._outputs(units, prompts), [len(work.inputs) for work in units])
                results |= {id(work): rows for work, rows in zip(units, outputs, strict=True)}
        return [results[id(work)] for work in works]

    @torch.no_grad()
    def run_single(self, work: ScoreLabels | Generate) -> Result:
        """Run a unit whose shape (labels, answer length) depends on its job, so that it shares no pass."""
        assert isinstance(self.backbone, TextBackbone)
        prompts = None
        if NO_PROMPT not in work.lanes:
            prompts = self.subspace.decoder(work.vectors)[torch.tensor(work.lanes, device=work.vectors.device)]
        if isinstance(work, ScoreLabels):
            return self.backbone.score_labels(work.inputs, work.labels, prompts)
        return self.backbone.answer(work.inputs, prompts, max_new_tokens=work.max_new_tokens)

    def _outputs(
        self, works: Sequence[Forward] | Sequence[GradientStep], prompts: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the backbone's outputs for the rows of several units; `prompts` [L, P, H] are those of their lanes."""
        inputs: list[TokenIds] = [row for work in works for row in work.inputs]
        lanes: list[int] = []
        if prompts is not None:
            offset = 0
            for work in works:
                lanes += [offset + lane for lane in work.lanes]
                offset += work.vectors.shape[0] if isinstance(work, Forward) else work.state.vectors.shape[0]
        if isinstance(self.backbone, EncoderBackbone):
            row_prompts = None if prompts is None else prompts[to_device(torch.tensor(lanes), prompts.device)]
            return self.backbone.embed(inputs, row_prompts)
        assert isinstance(self.backbone, TextBackbone)
        targets = [row for work in works for row in work.targets or ()]
        return self.backbone.target_cross_entropy(
            inputs,
            targets,
            prompts,
            label_smoothing=label_smoothing,
            prompt_of_row=None if prompts is None else lanes,
        )

    def _positions(self, work: Forward | GradientStep) -> int:
        return sum(self._row_positions(work))

    def _row_positions(self, work: Forward | GradientStep) -> list[int]:
        """Return the positions of each row: prompt, input and target."""
        prompt = 0 if NO_PROMPT in work.lanes else self.backbone.input_positions(self.subspace.prompt_length)
        if work.targets is None:
            return [prompt + len(row) for row in work.inputs]
        return [prompt + len(row) + len(target) for row, target in zip(work.inputs, work.targets, strict=True)]

    def _chunks(self, step: GradientStep, max_positions: int) -> Iterator[Forward]:
        """Yield the rows of a step in chunks of at most `max_positions`; a single row may exceed it."""
        for chunk in consecutive_chunks(self._row_positions(step), max_positions):
            targets = None if step.targets is None else step.targets[chunk]
            yield Forward(step.state.vectors, step.lanes[chunk], step.inputs[chunk], targets)

    def _to_host(self, losses: Tensor) -> Tensor:
        """Copy losses to the CPU; the copy of a GPU's losses is complete once the next copy has been requested."""
        if losses.device.type != "cuda":
            return losses
        copied = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        previous, self._last_copy = self._last_copy, torch.cuda.Event()
        self._last_copy.record(torch.cuda.current_stream(losses.device))
        if previous is not None:
            previous.synchronize()  # waits for the previous step only; this step is queued, so the device stays busy
        return copied
