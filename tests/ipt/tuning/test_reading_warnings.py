"""Warnings about texts that the backbone cuts, hardly knows, or cannot tell from a text of another label."""

import copy
from collections.abc import Sequence
from functools import partial

import pytest
from tokenizers.processors import TemplateProcessing

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.tuning.reading_warnings import reading_warnings
from tests.support.datasets import topics

THAI = ["ผมต้องการคืนเงิน", "พัสดุของฉันอยู่ที่ไหน", "ฉันลืมรหัสผ่าน"]


def warnings_about(backbone: EncoderBackbone, examples: list[ipt.Example], *validation: ipt.Example) -> list[str]:
    read = partial(backbone.tokenize_flagged, prompt_length=4)
    return reading_warnings(backbone, 4, read, examples, validation)


def test_texts_that_the_backbone_reads_whole_cause_no_warning(encoder: EncoderBackbone) -> None:
    known = [ipt.Example(example.input.replace(",", ""), example.output) for example in topics()]
    known = [ipt.Example(f"good movie {number} with me on the phone", "a") for number in range(9)] + known[:5]
    assert warnings_about(encoder, known) == []


def test_texts_that_are_cut_are_counted_and_named(encoder: EncoderBackbone) -> None:
    [warning] = warnings_about(
        encoder, [ipt.Example("good", "a"), ipt.Example("bad " * 99, "b")], ipt.Example("good " * 99, "a")
    )
    limit = encoder.max_input_tokens(4)
    assert warning.startswith(f"2 of 3 texts are longer than the {limit} tokens that the backbone reads")
    assert warning.endswith("examples[1], validation_examples[0]")


def test_texts_of_unknown_tokens_are_counted_and_named_with_their_script(encoder: EncoderBackbone) -> None:
    examples = [ipt.Example(text, str(number)) for number, text in enumerate(THAI)]
    unknown, alike = warnings_about(encoder, [*examples, ipt.Example("good movie", "0")])
    assert "does not know 60% of what the texts consist of (Thai letters)" in unknown
    assert "most of it in 3 of 4 texts: examples[0], examples[1], examples[2]" in unknown
    assert alike.startswith("2 texts are the same to the backbone as a text of another label")
    assert alike.endswith("examples[1] and examples[0], examples[2] and examples[0]")


def test_texts_that_become_the_same_when_they_are_cut_are_named(encoder: EncoderBackbone) -> None:
    disclaimer = "it is not for you " * 30
    examples = [ipt.Example(disclaimer + text, text) for text in ("refund", "login")]
    same_label = [ipt.Example(disclaimer + text, "refund") for text in ("refund", "money")]
    assert "examples[1] and examples[0]" in warnings_about(encoder, examples)[-1]
    assert "1 of 2 texts are the same to the backbone as another one" in warnings_about(encoder, same_label)[-1]


def test_words_in_many_pieces_are_another_language(encoder: EncoderBackbone) -> None:
    # The tiny vocabulary has every letter of these words, and none of the words.
    words = "haluan rahani takaisin koska paketti on rikki ja myöhässä".replace("ö", "o").replace("ä", "a").split()
    examples = [ipt.Example(" ".join(words[start : start + 3]), "a") for start in range(0, len(words), 3)]
    [warning] = warnings_about(encoder, examples * 3)
    assert "splits each word of the texts into" in warning
    assert "(Latin letters)" in warning
    assert 'see "Languages"' in warning


def language_is_noticed(backbone: ipt.Backbone, *texts: str) -> bool:
    read = partial(backbone.tokenize_flagged, prompt_length=4)
    warnings = reading_warnings(backbone, 4, read, [ipt.Example(text, "a") for text in texts])
    return any("hardly knows their language" in warning for warning in warnings)


def test_european_languages_are_noticed_and_english_terms_are_not() -> None:
    default = ipt.load_backbone()
    french = ["je voudrais être remboursé de ma commande", "on m'a facturé deux fois", "le livreur n'est jamais venu"]
    dutch = ["ik wil mijn geld terug", "waar is mijn bestelling gebleven", "er is twee keer afgeschreven deze maand"]
    italian = ["vorrei un rimborso per il mio ordine", "mi avete addebitato due volte", "dove si trova il mio pacco"]
    for texts in (french, dutch, italian):
        assert language_is_noticed(default, *texts, texts[0])
    drugs = ["prescribed atorvastatin and lisinopril daily", "acetaminophen with hydrocodone for pain"]
    drugs += [
        "metformin hydrochloride raised to 1000mg",
        "omeprazole discontinued after endoscopy",
        "clopidogrel given",
    ]
    software = [
        "kubectl get pods shows CrashLoopBackOff for nginx",
        "NullPointerException at BarImpl.run",
        "psql refused",
    ]
    software += ["npm ERR! ERESOLVE unable to resolve dependency tree", "terraform segfaults on eu-west-1"]
    assert not language_is_noticed(default, *drugs)
    assert not language_is_noticed(default, *software)


def test_reading_is_limited(encoder: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipt.tuning.reading_warnings._MOST_CHARS", 1000)
    characters = 0

    def count(texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        nonlocal characters
        characters += sum(map(len, texts))
        return encoder.tokenize_flagged(texts, 4)

    reading_warnings(encoder, 4, count, [ipt.Example("good " * 10, "a")] * 1000)
    assert 0 < characters < 2000


def test_an_adapted_task_says_what_was_read(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    examples = [*topics(), ipt.Example("bad " * 99, "praise"), *(ipt.Example(text, "billing") for text in THAI)]
    task = ipt.adapt(encoder, subspace, examples, hyperparameters=ipt.Hyperparameters(steps=1))
    assert task.metrics["truncated"] == 1
    assert 0 < float(task.metrics["unknown_tokens"] or 0) < 0.1
    assert any("1 of 19 texts are longer than" in warning for warning in task.warnings)


def test_a_prefix_that_the_tokenizer_adds_is_no_part_of_the_words(encoder: EncoderBackbone) -> None:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    ids = tokenizer("good movie on the phone", add_special_tokens=False)["input_ids"]
    pieces = [
        (tokenizer.cls_token, tokenizer.cls_token_id),
        {"id": "prefix", "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)},
        (tokenizer.sep_token, tokenizer.sep_token_id),
    ]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.cls_token} prefix $A {tokenizer.sep_token}", special_tokens=pieces
    )
    prefixed = EncoderBackbone(encoder.model, tokenizer, encoder.identity)
    examples = [ipt.Example(f"good movie {number} with me on the phone", "a") for number in range(9)]
    assert prefixed.tokenize(["good"])[0][1:-2] == ids
    assert warnings_about(prefixed, examples) == []
