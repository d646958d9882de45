"""Streaming text: emitted pieces never change, and together they are the whole text."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, ByteLevel, Fuse, Sequence, Strip
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit

from ipt.generation.text_stream import WINDOW, TextStream


def byte_level() -> Callable[[list[int]], str]:
    """Return a decoder of single bytes, as in GPT-2, Llama 3 and Qwen; many characters take several tokens."""
    letters = sorted(ByteLevelSplit.alphabet())
    tokenizer = Tokenizer(BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.decoder = ByteLevel()
    return tokenizer.decode


def byte_fallback() -> Callable[[list[int]], str]:
    """Return a byte decoder as in Llama 2 and T5, which drops the first space."""
    tokenizer = Tokenizer(BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
    tokenizer.decoder = Sequence([ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    return tokenizer.decode


def byte_level_tokens(text: str) -> list[int]:
    letters = sorted(ByteLevelSplit.alphabet())
    [(split, _)] = ByteLevelSplit(add_prefix_space=False, use_regex=False).pre_tokenize_str(text) or [("", None)]
    return [letters.index(letter) for letter in split]


DECODERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


def tokens_of(text: str, decoder: str) -> list[int]:
    return list(text.encode()) if decoder == "byte fallback" else byte_level_tokens(text) if text else []


def streamed(text: str, decoder: str, *stop: str) -> tuple[list[str], bool]:
    """Return the pieces of a text, and whether a stop string ended it."""
    stream = TextStream(DECODERS[decoder], stop)
    pieces = []
    for token in tokens_of(text, decoder):
        piece, stopped = stream.push(token)
        pieces.append(piece)
        if stopped:
            return pieces, True
    pieces.append(stream.finish())
    assert stream.text == "".join(pieces)
    return pieces, False


@pytest.mark.parametrize("decoder", DECODERS)
@given(text=st.text(st.sampled_from("ab \n.é€😀"), max_size=3 * WINDOW))
def test_pieces_are_whole_characters_and_add_up_to_the_text(decoder: str, text: str) -> None:
    pieces, _ = streamed(text, decoder)
    assert "".join(pieces) == text.strip()
    assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("decoder", DECODERS)
@given(
    text=st.text(st.sampled_from("ab \n€"), max_size=40),
    stop=st.lists(st.text(st.sampled_from("ab \n€"), min_size=1, max_size=4), max_size=3),
)
def test_a_text_ends_before_the_first_complete_stop_string(decoder: str, text: str, stop: list[str]) -> None:
    text = f"x{text}"
    # The stop string that is complete first; among several that end at once, the longest.
    places = [(text.index(string) + len(string), text.index(string)) for string in stop if string in text]
    pieces, stopped = streamed(text, decoder, *stop)
    assert "".join(pieces) == text[: min(places)[1] if places else None].strip()
    assert stopped == bool(places)


def test_a_piece_is_emitted_as_soon_as_it_is_certain() -> None:
    assert streamed("ab cENd EN", "byte level", "END")[0] == ["a", "b", "", " c", "", "", "ENd", "", "", "", " EN"]
    assert streamed("é€", "byte level")[0] == ["", "é", "", "", "€", ""]


def test_an_incomplete_character_at_the_end_is_dropped() -> None:
    stream = TextStream(DECODERS["byte level"], ())
    for token in tokens_of("a€", "byte level")[:-1]:
        stream.push(token)
    assert (stream.finish(), stream.text) == ("", "a")


def test_a_long_text_decodes_few_tokens_at_a_time() -> None:
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return DECODERS["byte level"](tokens)

    stream = TextStream(decode, ["never"])
    text = "word nev € " * 100
    for token in tokens_of(text, "byte level"):
        stream.push(token)
    stream.finish()
    assert stream.text == text.strip()
    assert longest <= WINDOW + 8
