"""Tiny models with random weights, written to a folder like real models: safetensors, config and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

EncoderKind = Literal["bert", "distilbert", "mpnet", "roberta", "xlm-roberta"]
Seq2SeqKind = Literal["bart", "t5"]
CausalKind = Literal["gpt2", "llama", "mistral", "qwen2", "qwen3"]

WORDS = (
    "the a an i my me it is was not no and or to of in on for with you your we how what when where why do does can "
    "good bad great awful fine love hate like happy sad angry slow fast new old big small red blue green cheap dear "
    "movie film book food place room staff phone card bank money bill pay paid refund order late lost broken login "
    "password account help please thanks ticket charge charged twice invoice app crash crashed error screen start "
    "weather rain sun play music song alarm light home call send mail cat dog sat mat hello world"
)


def vocabulary(special: list[str]) -> dict[str, int]:
    """Return token ids of special tokens, words and letters, so that any lower-case ASCII text has tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?:;-_'\"()/@#$%&*+="
    entries = dict.fromkeys([*special, *WORDS.split(), *letters, *(f"##{letter}" for letter in letters)])
    return {entry: index for index, entry in enumerate(entries)}


def build_tiny_encoder(folder: Path, kind: EncoderKind = "bert", seed: int = 0) -> Path:
    """Write a sentence encoder of two layers, hidden size 32 and 64 positions, with mean pooling."""
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
    _save_model(AutoModel, config, folder, seed)
    tokenizer = _word_piece(vocab, unknown, f"{first} $A {last}")
    _save_tokenizer(tokenizer, folder, pad_token=pad, unk_token=unknown, cls_token=first, sep_token=last)
    return folder


def build_tiny_seq2seq(folder: Path, kind: Seq2SeqKind, seed: int = 0) -> Path:
    """Write a text-to-text model of 2 + 2 layers and hidden size 32; BART has 64 positions, T5 any number."""
    from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

    vocab = vocabulary(["<s>", "<pad>", "</s>", "<unk>"])
    ids = {"pad_token_id": vocab["<pad>"], "bos_token_id": vocab["<s>"], "eos_token_id": vocab["</s>"]}
    if kind == "bart":
        config: Any = BartConfig(
            vocab_size=len(vocab),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            init_std=0.2,
            decoder_start_token_id=vocab["</s>"],
            **ids,
        )
    else:
        config = T5Config(
            vocab_size=len(vocab),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            initializer_factor=2.0,
            tie_word_embeddings=False,
            decoder_start_token_id=vocab["<pad>"],
            **ids,
        )
    _save_model(AutoModelForSeq2SeqLM, config, folder, seed)
    tokenizer = _word_piece(vocab, "<unk>", "<s> $A </s>" if kind == "bart" else "$A </s>")
    _save_tokenizer(tokenizer, folder, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return folder


def build_tiny_causal(folder: Path, kind: CausalKind, seed: int = 0) -> Path:
    """Write a decoder-only model of two layers, hidden size 32 and 64 positions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    vocab = vocabulary(["<s>", "</s>", "<unk>"])
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    else:
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocab),
        initializer_range=0.2,
        bos_token_id=vocab["<s>"],
        eos_token_id=vocab["</s>"],
        **sizes,
    )
    _save_model(AutoModelForCausalLM, config, folder, seed)
    # As in the real models: Llama starts a text with a special token, GPT-2 and Qwen do not.
    tokenizer = _word_piece(vocab, "<unk>", "<s> $A" if kind in ("llama", "mistral") else "$A")
    _save_tokenizer(tokenizer, folder, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return folder


def build_tiny_text(folder: Path, kind: str) -> tuple[Path, Path]:
    """Write a text model and an untrained subspace of eight dimensions for it, and return both folders."""
    import ipt
    from ipt.subspace.prompt_decoder import SubspaceDecoder

    build: Any = build_tiny_seq2seq if kind in ("bart", "t5") else build_tiny_causal
    backbone, subspace = build(folder / "backbone", kind), folder / "subspace"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    ipt.save_subspace(subspace, decoder, ipt.load_backbone(str(backbone), device="cpu"))
    return backbone, subspace


def _save_model(auto: Any, config: Any, folder: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    model.save_pretrained(folder)


def _word_piece(vocab: dict[str, int], unknown: str, template: str) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=unknown))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    special = [piece for piece in template.split() if piece != "$A"]
    tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(piece, vocab[piece]) for piece in special]
    )
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, **special: str) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
