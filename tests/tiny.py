"""Tiny models with random weights, written to a folder as real ones are: safetensors, config and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

EncoderKind = Literal["bert", "distilbert", "mpnet", "roberta", "xlm-roberta"]

WORDS = (
    "the a an i my me it is was not no and or to of in on for with you your we how what when where why do does can "
    "good bad great awful fine love hate like happy sad angry slow fast new old big small red blue green cheap dear "
    "movie film book food place room staff phone card bank money bill pay paid refund order late lost broken login "
    "password account help please thanks ticket charge charged twice invoice app crash crashed error screen start "
    "weather rain sun play music song alarm light home call send mail cat dog sat mat hello world"
)


def vocabulary(special: list[str]) -> dict[str, int]:
    """Special tokens, words, letters and their continuations: any lower-case ASCII text has tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?:;-_'\"()/@#$%&*+="
    entries = dict.fromkeys([*special, *WORDS.split(), *letters, *(f"##{letter}" for letter in letters)])
    return {entry: index for index, entry in enumerate(entries)}


def build_tiny_encoder(folder: Path, kind: EncoderKind = "bert", seed: int = 0) -> Path:
    """A two-layer sentence encoder of hidden size 32, for 64 positions, that mean-pools."""
    from transformers import AutoConfig, AutoModel

    roberta = kind in ("roberta", "xlm-roberta", "mpnet")
    special = ["<s>", "<pad>", "</s>", "<unk>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    first, last, unknown, pad = ("<s>", "</s>", "<unk>", "<pad>") if roberta else ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
    vocab = vocabulary(special)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocab),
        max_position_embeddings=64 + (2 if roberta else 0),
        pad_token_id=vocab[pad],
        bos_token_id=vocab[first],
        eos_token_id=vocab[last],
        intermediate_size=64,
        initializer_range=0.2,
        **sizes,
    )
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = _word_piece(vocab, unknown)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocab[first]), (last, vocab[last])]
    )
    _save_tokenizer(tokenizer, folder, pad_token=pad, unk_token=unknown, cls_token=first, sep_token=last)
    return folder


def _word_piece(vocab: dict[str, int], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=unknown))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, **special: str) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
