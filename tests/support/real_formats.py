"""Files as people have them: formats, encodings, columns and spellings of labels."""

from __future__ import annotations

import csv
import json
import unicodedata

from tests.support.written_files import (
    LABELS,
    PAIRS,
    TEXTS,
    Case,
    chat,
    every_fourth,
    label_studio,
    lines,
    raw_table,
    records,
    relabeled,
    table,
    tar,
)


def format_cases() -> list[Case]:
    plain = table(PAIRS)
    digits = {label: str(number) for number, label in enumerate(LABELS)}
    booleans = {"refund": "TRUE", "shipping": "FALSE", "account": "FALSE"}
    prodigy = [row | {"answer": "accept"} for row in records()] + [row | {"answer": "reject"} for row in records()]
    choices = [
        {
            "text": text,
            "options": [{"id": each, "text": each} for each in LABELS],
            "accept": [label],
            "answer": "accept",
        }
        for text, label in PAIRS
    ]
    spacy = lines([{"text": text, "cats": {each: float(each == label) for each in LABELS}} for text, label in PAIRS])
    rasa = 'version: "3.1"\nnlu:\n' + "".join(
        f"- intent: {label}\n  examples: |\n" + "".join(f"    - {text}\n" for text in texts)
        for label, texts in TEXTS.items()
    )
    nfd = unicodedata.normalize("NFD", "Rückgabe")
    nfd_pairs = relabeled({"refund": "Rückgabe"})
    nfd_pairs = [
        (text, nfd if number % 4 == 0 and label == "Rückgabe" else label)
        for number, (text, label) in enumerate(nfd_pairs)
    ]
    german = {"Rückgabe": 8, "shipping": 8, "account": 8}
    spellings = "labels that differ only in case"
    nested = lines({"review": {"body": a}, "meta": {"stars": b}} for a, b in PAIRS).encode()
    return [
        Case("01-cp1252.csv", plain.encode("cp1252"), error=("looks like Windows-1252", "charset", "windows-1252")),
        Case("37b-cp1252-charset.csv", plain.encode("cp1252"), fields={"charset": "cp1252"}),
        Case("02-excel-unicode-text.txt", table(PAIRS, delimiter="\t").encode("utf-16"), format="tsv"),
        Case("02b-excel-unicode-text.csv", table(PAIRS, delimiter="\t").encode("utf-16"), format="tsv"),
        Case("02c-utf16le-nobom.csv", plain.encode("utf-16-le"), format="csv"),
        Case("03-german-excel.csv", table(PAIRS, delimiter=";", end="\r\n").encode()),
        Case("03b-semicolon-quoted.csv", table(PAIRS, delimiter=";", quoting=csv.QUOTE_ALL).encode()),
        Case(
            "nested.jsonl", lines({"data": {"text": a, "id": 7}, "label": b} for a, b in PAIRS).encode(), format="jsonl"
        ),
        Case("nested-with-a-choice.jsonl", nested, error=("'review.body'", "'meta.stars'", "data.text")),
        Case("nested-named.jsonl", nested, fields={"input_column": "review.body", "output_column": "meta.stars"}),
        Case("pair.csv", table((("Yes.", a, b) for a, b in PAIRS), ("hypothesis", "premise", "label")).encode()),
        Case(
            "title-and-body.csv",
            table((("Hi", a, b) for a, b in PAIRS), ("title", "body", "label")).encode(),
            fields={"input_column": "title,body"},
        ),
        Case("03c-pipe.csv", raw_table(PAIRS, "|").encode()),
        Case(
            "03d-semicolon-comma-in-header.csv",
            table(([*pair, "x"] for pair in PAIRS), ("text", "label", "note, internal"), ";").encode(),
        ),
        Case("04-sep-semicolon.csv", ("sep=;\n" + table(PAIRS, delimiter=";")).encode()),
        Case("05-quoted-newlines.csv", table((f"{text},\n\nthanks", label) for text, label in PAIRS).encode()),
        Case(
            "06-kaggle-spam-empty-header.csv",
            table(([label, text, "", "", ""] for text, label in PAIRS), ("v1", "v2", "", "", "")).encode(),
        ),
        Case("06b-trailing-commas.csv", table([*pair, ""] for pair in PAIRS).encode()),
        Case(
            "06c-trailing-commas2.csv", table(([*pair, "", ""] for pair in PAIRS), ("text", "label", "", "")).encode()
        ),
        Case(
            "07-pandas-index.csv",
            table(([number, *pair] for number, pair in enumerate(PAIRS)), ("", "text", "label")).encode(),
        ),
        Case("08-Text-Label.csv", table(PAIRS, ("Text", "Label")).encode()),
        Case("08b-utterance-intent.csv", table(PAIRS, ("utterance", "intent")).encode()),
        Case("08c-Sentence-Class.csv", table(PAIRS, ("Sentence", "Class")).encode()),
        Case(
            "08e-space-named.csv",
            table(PAIRS, (" my text ", " Team")).encode(),
            fields={"input_column": "My Text", "output_column": "team"},
        ),
        Case("08f-prompt-completion.jsonl", lines(records(PAIRS, "prompt", "completion")).encode()),
        Case(
            "08g-prompt-completion-named.jsonl",
            lines(
                records([(f"{text}\n\n###\n\n", f" {label}") for text, label in PAIRS], "prompt", "completion")
            ).encode(),
            format="jsonl (prompt and completion)",
        ),
        Case("09-chat-messages.jsonl", lines(chat(*pair) for pair in PAIRS).encode(), format="jsonl (chat)"),
        Case("10-prodigy-binary.jsonl", lines(prodigy).encode(), format="jsonl (Prodigy)", skipped=24),
        Case("10b-prodigy-choice.jsonl", lines(choices).encode(), format="jsonl (Prodigy)"),
        Case(
            "10c-prodigy-choice-named.jsonl",
            lines([*choices, choices[0] | {"answer": "ignore"}]).encode(),
            format="jsonl (Prodigy)",
            skipped=1,
        ),
        Case(
            "11b-doccano-csv-hash.csv",
            table(
                (
                    [number, text, "refund#urgent" if number < 12 and label == "refund" else label]
                    for number, (text, label) in enumerate(PAIRS)
                ),
                ("id", "text", "label"),
            ).encode(),
            labels={"refund#urgent": 4, "refund": 4, "shipping": 8, "account": 8},
            warnings=("several labels joined by '#'",),
        ),
        Case(
            "12-labelstudio.json",
            json.dumps([label_studio(*pair) for pair in PAIRS]).encode(),
            format="json (Label Studio)",
        ),
        Case("12b-labelstudio-as.jsonl", lines(label_studio(*pair) for pair in PAIRS).encode()),
        Case("12c-labelstudio-min.json", json.dumps(records(PAIRS, "text", "sentiment", id=1)).encode(), format="json"),
        Case(
            "12d-labelstudio-csv.csv",
            table(
                (
                    (number, text, json.dumps({"choices": [label]}) if number % 3 else label)
                    for number, (text, label) in enumerate(PAIRS)
                ),
                ("annotation_id", "text", "sentiment"),
            ).encode(),
        ),
        Case(
            "13-int-labels.jsonl",
            lines({"text": text, "label": LABELS.index(label)} for text, label in PAIRS).encode(),
            labels={"0": 8, "1": 8, "2": 8},
            warnings=("all 3 labels are numbers",),
        ),
        Case(
            "13b-int-labels.csv",
            table(every_fourth(lambda label: f"{label}.0", relabeled(digits))).encode(),
            labels={"0": 8, "1": 8, "2": 8},
            warnings=(spellings, "all 3 labels are numbers"),
        ),
        Case(
            "13c-bool-labels.jsonl",
            lines({"text": text, "label": label == "refund"} for text, label in PAIRS).encode(),
            labels={"true": 8, "false": 16},
        ),
        Case("13d-bool-labels.csv", table(relabeled(booleans)).encode(), labels={"TRUE": 8, "FALSE": 16}),
        Case(
            "13e-mixed-true.csv",
            table(every_fourth(str.title, relabeled(booleans))).encode(),
            labels={"TRUE": 8, "FALSE": 16},
            warnings=(spellings,),
        ),
        Case("14-spacy-cats.jsonl", spacy.encode(), format="jsonl (spaCy)"),
        Case("14b-spacy-cats-named.jsonl", spacy.encode(), format="jsonl (spaCy)"),
        Case(
            "15-argilla.jsonl",
            lines({"inputs": {"text": text}, "annotation": label} for text, label in PAIRS).encode(),
            format="jsonl (Argilla)",
        ),
        Case(
            "16-fasttext.txt",
            "".join(f"__label__{label} {text}\n" for text, label in PAIRS).encode(),
            format="fastText",
        ),
        Case("17-rasa.yml", rasa.encode(), format="Rasa"),
        Case("18-no-header.csv", "".join(plain.splitlines(keepends=True)[1:]).encode(), error=("no header?",)),
        Case(
            "19-trailing-space-label.csv",
            table(every_fourth(lambda label: f"{label} ")).encode(),
            warnings=(spellings, "'refund '"),
        ),
        Case("19b-case-label.csv", table(every_fourth(str.title)).encode(), warnings=(spellings, "'Refund'")),
        Case(
            "19d-nbsp-label.csv",
            table(
                every_fourth(lambda label: label.replace(" ", "\u00a0"), relabeled({"refund": "bank card"}))
            ).encode(),
            labels={"bank card": 8, "shipping": 8, "account": 8},
            warnings=(spellings, r"'bank\xa0card'"),
        ),
        Case(
            "19g-underscore-vs-space.csv",
            table(every_fourth(lambda label: label.replace(" ", "_"), relabeled({"shipping": "late order"}))).encode(),
            labels={"refund": 8, "late order": 8, "account": 8},
            warnings=(spellings, "'late_order'"),
        ),
        Case("20-nfd-label.csv", table(nfd_pairs).encode(), labels=german, warnings=(spellings,)),
        Case("80-by-label.json", json.dumps(TEXTS, indent=2).encode(), format="json (texts by label)"),
        Case(
            "80b-intents.json",
            json.dumps({"intents": [{"tag": label, "patterns": TEXTS[label]} for label in TEXTS]}).encode(),
            format="json (texts by label)",
        ),
        Case("81-pairs.json", json.dumps(PAIRS).encode(), format="json"),
        Case("82-title-above.csv", f"My tickets\n\n{table(PAIRS, delimiter=';')}".encode(), format="csv"),
        Case("83-texts.tar", tar(), error=("a tar archive: unpack it",)),
    ]
