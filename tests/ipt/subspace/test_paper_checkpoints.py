"""Import of reference checkpoints, which these tests write in the reference's format for a tiny BART."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import ipt
from ipt.subspace.manifest import TENSORS_FILE
from ipt.subspace.paper_checkpoints import import_checkpoint
from tests.support.tiny import build_tiny_seq2seq

D, HIDDEN, P, H = 6, 24, 5, 32


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> ipt.Backbone:
    return ipt.load_backbone(str(build_tiny_seq2seq(tmp_path_factory.mktemp("bart"), "bart")), device="cpu")


def layers(ae_type: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(ae_type)

    def linear(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        return torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)

    shapes = [(P * H, D), (D, HIDDEN), (HIDDEN, P * H)] if ae_type == 1 else [(P * H, D), (D, P * H)]
    tensors = {}
    for number, shape in enumerate(shapes, start=1):
        tensors[f"prompt_W{number}.weight"], tensors[f"prompt_W{number}.bias"] = linear(*shape)
    return tensors


def write(path: Path, tensors: dict[str, Any], prefix: str = "") -> Path:
    """Write what the reference's `save_ckpt` writes, including the prompt embeddings of the backbone's encoder."""
    model = {f"{prefix}{name}": value for name, value in tensors.items()}
    model[f"{prefix}model.encoder.prompt_embeddings.weight"] = torch.zeros(P, H)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=3e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    saved = {
        "global_step": 100_000,
        "model": model,
        "scheduler": schedule.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best_accuracy": 0.5,
    }
    torch.save(saved, path)
    return path


def restated_decoder(tensors: dict[str, Tensor], vector: Tensor, ae_type: int) -> Tensor:
    """Compute the reference's formula with plain matrix products: [D] to [P, H]."""
    hidden = tensors["prompt_W2.weight"] @ vector + tensors["prompt_W2.bias"]
    if ae_type == 1:
        hidden = tensors["prompt_W3.weight"] @ hidden.tanh() + tensors["prompt_W3.bias"]
    return hidden.reshape(P, H)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("ae_type", [0, 1])
def test_an_imported_subspace_computes_the_same_as_the_reference(
    bart: ipt.Backbone, tmp_path: Path, ae_type: int, prefix: str
) -> None:
    tensors = layers(ae_type)
    import_checkpoint(write(tmp_path / "last-ckpt.pt", tensors, prefix), bart, tmp_path / "subspace")
    subspace = ipt.load_subspace(tmp_path / "subspace", bart)
    assert (subspace.intrinsic_dim, subspace.prompt_length, subspace.hidden_size) == (D, P, H)
    assert (subspace.manifest["training"]["ae_type"], subspace.manifest["prompt_placement"]) == (
        ae_type,
        "before_input",
    )
    vectors, prompts = torch.randn(3, D), torch.randn(3, P, H)
    expected = torch.stack([restated_decoder(tensors, vector, ae_type) for vector in vectors])
    torch.testing.assert_close(subspace.decoder(vectors), expected)
    compressed = prompts.flatten(1) @ tensors["prompt_W1.weight"].T + tensors["prompt_W1.bias"]
    torch.testing.assert_close(subspace.compress(prompts), compressed)
    with safe_open(tmp_path / "subspace" / TENSORS_FILE, framework="pt") as file:
        assert all(file.get_slice(name).get_dtype() == "F32" for name in file.keys())  # noqa: SIM118


def test_tasks_are_tuned_in_an_imported_subspace(bart: ipt.Backbone, tmp_path: Path) -> None:
    subspace = import_checkpoint(write(tmp_path / "ckpt.pt", layers(1)), bart, tmp_path / "subspace")
    examples = [ipt.Example("good movie", "yes"), ipt.Example("bad movie", "no")] * 4
    task = ipt.adapt(bart, subspace, examples, hyperparameters=ipt.Hyperparameters(steps=2, batch_size=4))
    assert task.head.vector.shape == (D,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("prompt_W2.bias"), "weight and bias"),
        (lambda tensors: [tensors.pop("prompt_W1.weight"), tensors.pop("prompt_W1.bias")], "needs prompt_W1"),
        (lambda tensors: tensors.update({"prompt_W2.weight": torch.zeros(HIDDEN, D + 1)}), "not an auto-encoder"),
        (lambda tensors: tensors.update({"prompt_W2.bias": torch.zeros(HIDDEN + 1)}), "not a linear layer"),
        (lambda tensors: tensors.update({"prompt_W3.weight": torch.zeros(P * H - H, HIDDEN)}), "not a linear layer"),
        (lambda tensors: tensors.update({"prompt_W1.weight": torch.full((D, P * H), torch.nan)}), "finite"),
        (lambda tensors: tensors.update({"prompt_W1.weight": [1.0, 2.0]}), "finite"),
        (lambda tensors: tensors.clear(), "no such tensor"),
    ],
)
def test_layers_that_do_not_fit_together_are_named(
    bart: ipt.Backbone, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    tensors: dict[str, Any] = layers(1)
    change(tensors)
    with pytest.raises(ipt.SubspaceError, match=message):
        import_checkpoint(write(tmp_path / "ckpt.pt", tensors), bart, tmp_path / "subspace")
    assert not (tmp_path / "subspace").exists()


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda: torch.eye(D).to_sparse(), "form torch.sparse_coo"),
        (lambda: torch.eye(D).to_sparse_csr(), "form torch.sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "form nested"),
        (
            lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
            "of type NestedTensor",
        ),
        (lambda: torch.empty(HIDDEN, D, device="meta"), "form meta"),
        (lambda: torch.zeros(HIDDEN, D).to(torch.float8_e4m3fn), "of torch.float8_e4m3fn: save it as float16"),
        (lambda: torch.zeros(HIDDEN, D, dtype=torch.complex64), "of torch.complex64"),
        (lambda: torch.zeros(HIDDEN, D, dtype=torch.int64), "of torch.int64"),
        (lambda: torch.quantize_per_tensor(torch.zeros(HIDDEN, D), 1.0, 0, torch.qint8), "of torch.qint8"),
        (lambda: torch.zeros(1).expand(10**7, 10**7), "the file holds 1 numbers for it"),
        (lambda: torch.zeros(D).expand(HIDDEN, D), f"the file holds {D} numbers for it"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch warns that some of these forms are beta or deprecated
def test_unusual_tensors_are_rejected_by_name_before_any_arithmetic(
    bart: ipt.Backbone, tmp_path: Path, odd: Callable[[], Tensor], message: str
) -> None:
    path = write(tmp_path / "ckpt.pt", layers(1) | {"prompt_W2.weight": odd()})
    with pytest.raises(ipt.SubspaceError, match=message) as caught:
        import_checkpoint(path, bart, tmp_path / "subspace")
    assert caught.value.message.startswith(f"{path}: prompt_W2.weight ")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_other_dtypes_are_imported(bart: ipt.Backbone, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: torch.nn.Parameter(tensor.to(dtype)) for name, tensor in layers(1).items()}
    subspace = import_checkpoint(write(tmp_path / "ckpt.pt", tensors), bart, tmp_path / "subspace")
    torch.testing.assert_close(subspace.decoder.state_dict()["project.bias"], tensors["prompt_W3.bias"].data.float())


def linear_layers(shapes: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Return layers of zeros with weights of these shapes."""
    tensors = {f"prompt_W{n}.weight": torch.zeros(shape) for n, shape in enumerate(shapes, start=1)}
    return tensors | {f"prompt_W{n}.bias": torch.zeros(shape[0]) for n, shape in enumerate(shapes, start=1)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(0, P * H), (P * H, 0)], "task vectors have 0 numbers"),
        ([(0, P * H), (HIDDEN, 0), (P * H, HIDDEN)], "task vectors have 0 numbers"),
        ([(D, 0), (0, D)], "prompts have 0 numbers"),
        ([(D, 0), (HIDDEN, D), (0, HIDDEN)], "prompts have 0 numbers"),
        ([(D, P * H), (0, D), (P * H, 0)], "hidden layer has 0 numbers"),
    ],
)
def test_a_checkpoint_with_an_empty_dimension_is_rejected(
    bart: ipt.Backbone, tmp_path: Path, shapes: list[tuple[int, int]], message: str
) -> None:
    path = write(tmp_path / "ckpt.pt", linear_layers(shapes))
    with pytest.raises(ipt.SubspaceError, match=rf"ckpt\.pt: its {message}"):
        import_checkpoint(path, bart, tmp_path / "subspace")


def test_prompts_that_leave_no_room_for_text_are_rejected(bart: ipt.Backbone, tmp_path: Path) -> None:
    def checkpoint(length: int) -> Path:
        return write(tmp_path / "ckpt.pt", linear_layers([(D, length * H), (length * H, D)]))

    for length in (bart.max_positions - 1, bart.max_positions, bart.max_positions + 36):
        message = rf"ckpt\.pt: a soft prompt of {length} positions leaves no room for text: .* attends to 64 positions"
        with pytest.raises(ipt.SubspaceError, match=message):
            import_checkpoint(checkpoint(length), bart, tmp_path / "subspace")
        assert not (tmp_path / "subspace").exists()
    longest = bart.max_positions - 2
    assert import_checkpoint(checkpoint(longest), bart, tmp_path / "subspace").prompt_length == longest


def test_a_checkpoint_of_another_backbone_is_rejected(bart: ipt.Backbone, tmp_path: Path) -> None:
    flat = 5 * 31
    tensors = {
        "prompt_W1.weight": torch.zeros(D, flat),
        "prompt_W1.bias": torch.zeros(D),
        "prompt_W2.weight": torch.zeros(flat, D),
        "prompt_W2.bias": torch.zeros(flat),
    }
    with pytest.raises(ipt.SubspaceError, match="no multiple of 32"):
        import_checkpoint(write(tmp_path / "ckpt.pt", tensors), bart, tmp_path / "subspace")


def test_an_encoder_of_two_layers_is_rejected(bart: ipt.Backbone, tmp_path: Path) -> None:
    shapes = [(HIDDEN, P * H), (D, HIDDEN), (P * H, D)]
    with pytest.raises(ipt.SubspaceError, match="AE_type 2"):
        import_checkpoint(write(tmp_path / "ckpt.pt", linear_layers(shapes)), bart, tmp_path / "subspace")


class Hostile:
    """Creates a folder if it is unpickled without a guard."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_runs_nothing(bart: ipt.Backbone, tmp_path: Path) -> None:
    torch.save({"model": layers(1), "global_step": Hostile(tmp_path / "run")}, tmp_path / "ckpt.pt")
    with pytest.raises(ipt.SubspaceError, match="not unpickled"):
        import_checkpoint(tmp_path / "ckpt.pt", bart, tmp_path / "subspace")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", None])
def test_a_file_that_is_not_a_checkpoint_is_rejected(bart: ipt.Backbone, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ckpt.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ipt.SubspaceError, match=r"ckpt\.pt"):
        import_checkpoint(path, bart, tmp_path / "subspace")


def test_a_truncated_checkpoint_and_one_without_a_model_are_rejected(bart: ipt.Backbone, tmp_path: Path) -> None:
    path = write(tmp_path / "ckpt.pt", layers(1))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ipt.SubspaceError, match=r"ckpt\.pt"):
        import_checkpoint(path, bart, tmp_path / "subspace")
    torch.save(layers(1), path)
    with pytest.raises(ipt.SubspaceError, match='no entry "model"'):
        import_checkpoint(path, bart, tmp_path / "subspace")


def test_prompts_of_another_shape_and_subspaces_without_encoder_are_rejected(
    bart: ipt.Backbone, tmp_path: Path
) -> None:
    subspace = import_checkpoint(write(tmp_path / "ckpt.pt", layers(0)), bart, tmp_path / "subspace")
    with pytest.raises(ipt.SubspaceError, match=r"\[J, 5, 32\]"):
        subspace.compress(torch.zeros(1, P + 1, H))
    bare = ipt.save_subspace(tmp_path / "bare", subspace.decoder, bart)
    with pytest.raises(ipt.SubspaceError, match="no encoder"):
        bare.compress(torch.zeros(1, P, H))
