"""When CUDA graphs are captured and dropped; tests/ipt/test_cuda.py tests what they compute."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ipt.backbones import cuda_graphs
from ipt.backbones.cuda_graphs import CAPTURED_AFTER, MAX_LAUNCH_BOUNDS, GraphedPasses

BOUND = 1000


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> GraphedPasses:
    def captured(_: GraphedPasses, function: object, shape: object) -> Any:
        return SimpleNamespace(in_use=False, shape=shape, function=function)

    monkeypatch.setattr(GraphedPasses, "_capture", captured)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return GraphedPasses(torch.device("cpu"), BOUND, with_gradients=5000)


def _embed(packed: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    return packed


def captured(passes: GraphedPasses, rows: int, tokens: int, prompts: torch.Tensor | None = None) -> Any:
    """Prepare passes of a shape until its graph is captured, and return the graph."""
    for _ in range(CAPTURED_AFTER):
        assert passes.prepare(_embed, rows, tokens, prompts) == (None, rows, tokens)
    graph, *_ = passes.prepare(_embed, rows, tokens, prompts)
    return graph


def captured_or_none(passes: GraphedPasses, rows: int) -> Any:
    """Return the graph of a pass of 32 tokens after prompts, after enough passes to capture it; None if it is not."""
    for _ in range(CAPTURED_AFTER):
        passes.prepare(_embed, rows, 32, prompts(rows, with_gradient=False))
    return passes.prepare(_embed, rows, 32, prompts(rows, with_gradient=False))[0]


def prompts(rows: int, *, with_gradient: bool) -> torch.Tensor:
    return torch.zeros(rows, 4, 8, requires_grad=with_gradient)


def test_similar_shapes_share_a_graph(passes: GraphedPasses) -> None:
    graph = captured(passes, 33, 17)
    assert graph is not None
    for rows, tokens in ((33, 17), (36, 32), (34, 20)):
        assert passes.prepare(_embed, rows, tokens, None) == (graph, 36, 32)
    assert passes.prepare(_embed, 37, 20, None) == (None, 37, 20)


@pytest.mark.parametrize("rows", range(1, 600, 7))
def test_at_most_an_eighth_of_the_rows_is_padding(rows: int) -> None:
    assert rows <= cuda_graphs.round_up_rows(rows) <= 1.125 * rows + 1


def test_passes_with_prompts_and_with_gradients_have_separate_graphs(passes: GraphedPasses) -> None:
    graphs = [
        captured(passes, 8, 16),
        captured(passes, 8, 16, prompts(8, with_gradient=False)),
        captured(passes, 8, 16, prompts(8, with_gradient=True)),
    ]
    assert len({id(graph) for graph in graphs}) == 3
    with torch.no_grad():
        assert passes.prepare(_embed, 8, 16, prompts(8, with_gradient=True))[0] is graphs[1]


def test_a_large_pass_is_not_captured(passes: GraphedPasses) -> None:
    rows = MAX_LAUNCH_BOUNDS * BOUND // 32
    assert captured(passes, rows // 2, 32) is not None
    for _ in range(2 * CAPTURED_AFTER):
        assert passes.prepare(_embed, 2 * rows, 32, None) == (None, 2 * rows, 32)


def test_prompts_at_every_layer_do_not_count_as_positions(passes: GraphedPasses) -> None:
    rows = 88  # 2,816 positions, 3,168 with prompts in the input; the limit is 3,000
    assert captured_or_none(passes, rows) is None
    every_layer = GraphedPasses(torch.device("cpu"), BOUND, with_gradients=5000, prompts_in_input=False)
    assert captured_or_none(every_layer, rows) is not None


def test_a_graph_is_not_reused_before_its_backward_pass(passes: GraphedPasses) -> None:
    graph = captured(passes, 8, 16, prompts(8, with_gradient=True))
    graph.in_use = True
    assert passes.prepare(_embed, 8, 16, prompts(8, with_gradient=True)) == (None, 8, 16)
    graph.in_use = False
    assert passes.prepare(_embed, 8, 16, prompts(8, with_gradient=True))[0] is graph


def test_graphs_with_gradients_stay_within_their_positions(passes: GraphedPasses) -> None:
    first, second = (captured(passes, rows, 16, prompts(rows, with_gradient=True)) for rows in (96, 112))
    assert passes.prepare(_embed, 96, 16, prompts(96, with_gradient=True))[0] is first  # the most recently used
    third = captured(passes, 120, 16, prompts(120, with_gradient=True))
    kept = list(passes._graphs.values())
    assert kept == [first, third]
    assert sum(graph.shape.positions for graph in kept) <= 5000
    assert second not in kept


@pytest.mark.parametrize("failures", [1, 2])
def test_out_of_memory_drops_all_graphs_and_then_limits_their_size(
    passes: GraphedPasses, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    outcomes = [torch.OutOfMemoryError("no room")] * failures

    def fails(_: GraphedPasses, function: object, shape: object) -> Any:
        if outcomes:
            raise outcomes.pop()
        return SimpleNamespace(in_use=False, shape=shape)

    first = captured(passes, 8, 16)
    passes._pool = object()
    monkeypatch.setattr(GraphedPasses, "_capture", fails)
    graph = captured(passes, 80, 32)
    assert passes._pool is None
    assert first not in passes._graphs.values()
    assert [*passes._graphs.values()] == ([graph] if failures == 1 else [])
    assert passes._max_positions == MAX_LAUNCH_BOUNDS * BOUND // failures
