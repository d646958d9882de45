"""Files as people have them: missing and doubtful rows, JSON, containers, long texts and languages."""

from __future__ import annotations

import gzip
import json

from tests.support.written_files import (
    LABELS,
    PAIRS,
    THREE,
    Case,
    changed,
    lines,
    long_texts,
    raw_table,
    records,
    relabeled,
    table,
    zipped,
)

GERMAN = (
    "Mein Toaster kam kaputt an, erstatten Sie mir das Geld",
    "Der Bote hat die Lieferung beim Nachbarn abgegeben",
    "Wie ändere ich meinen Nachnamen im Konto",
)
SPANISH = (
    "La batidora llegó rota, devuélvanme el dinero",
    "¿Cuándo llega mi pedido a la oficina?",
    "No puedo entrar en mi cuenta desde ayer",
)


def written_in(sentences: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs with sentences of another language as texts."""
    return [(f"{sentences[LABELS.index(label)]} {number}", label) for number, (_, label) in enumerate(PAIRS)]


def content_cases() -> list[Case]:
    plain, jsonl = table(PAIRS), lines(records())
    digits = {label: str(number) for number, label in enumerate(LABELS)}
    disclaimer = "Confidential: this mail and its attachments are only for the person it was sent to. " * 40
    one_hot = [[text, *(int(label == each) for each in LABELS)] for text, label in PAIRS]
    once = {"a": [("one more question", "escalation")], "b": [("one more offer", "sales")]}
    missing = changed({4: (PAIRS[4][0], ""), 9: (PAIRS[9][0], "")})
    null = [row | {"label": None} if number == 4 else row for number, row in enumerate(records())]
    absent = [{"text": "no label"} if number == 4 else row for number, row in enumerate(records())]
    unlabeled = [*PAIRS, *((f"question {number}", "") for number in range(21))]
    contradicting = [*PAIRS, (PAIRS[0][0].upper(), "shipping"), (f"{PAIRS[0][0]}!", "shipping")]
    html = '<html xmlns:v="urn:schemas"><head><style>p {color: #1f497d; font-size: 11.0pt}</style></head><body>' * 9
    return [
        Case("21-empty-label.csv", table(missing).encode(), error=("2 rows have no label", "lines 6, 11")),
        Case("21b-short-row.csv", (plain + "a text only\n").encode(), error=("no label", "line 26")),
        Case("21c-null-label.jsonl", lines(null).encode(), error=("no label", "line 5")),
        Case("21d-missing-key.jsonl", lines(absent).encode(), error=("no label", "line 5")),
        Case("21e-first-row-lacks-key.jsonl", lines([absent[4], *records()]).encode(), error=("no label", "line 1")),
        Case("21f-unlabelled-pool.csv", table(unlabeled).encode(), error=("21 rows have no label", "and 1 more")),
        Case(
            "22-contradicting.csv",
            table(contradicting).encode(),
            labels={"refund": 8, "shipping": 10, "account": 8},
            warnings=("the same text has different labels", "2 in all"),
        ),
        Case(
            "22c-exact-duplicates.csv",
            table([*PAIRS] * 8).encode(),
            labels=dict.fromkeys(LABELS, 64),
            warnings=("168 of 192 examples repeat",),
        ),
        Case("23-single-example.csv", table([*PAIRS, *once["a"]]).encode(), error=("'escalation'", ":26")),
        Case(
            "23b-two-singles.csv",
            table([*PAIRS, *once["a"], *once["b"]]).encode(),
            error=("2 labels have a single example", "'escalation'", "'sales'", ":26", ":27"),
        ),
        Case(
            "24-null-labels.csv",
            table(relabeled({"refund": "null", "shipping": "None", "account": "NA"})).encode(),
            labels={"null": 8, "None": 8, "NA": 8},
            warnings=("'null', 'None', 'NA' may mean that a label is missing",),
        ),
        Case(
            "24b-na-texts.csv",
            table([*PAIRS, *((text, "other") for text in ("NA", "null", "None", "nan"))]).encode(),
            labels=THREE | {"other": 4},
        ),
        Case("24c-digit-labels.csv", table(relabeled(digits)).encode(), labels={"0": 8, "1": 8, "2": 8}),
        Case(
            "25-formula-cells.csv",
            table(("=@+-"[number % 4] + text, label) for number, (text, label) in enumerate(PAIRS)).encode(),
        ),
        Case(
            "25b-sheets-errors.csv",
            table([*PAIRS, ("#REF!", "refund"), ("#N/A", "account")]).encode(),
            labels={"refund": 9, "shipping": 8, "account": 9},
        ),
        Case(
            "25c-error-labels.csv",
            table([*PAIRS, ("a text", "#N/A"), ("another text", "#REF!")]).encode(),
            skipped=2,
        ),
        Case(
            "26-comma-labels.csv",
            table(relabeled({"refund": "cash, refunds", "shipping": 'parcels, "late"'})).encode(),
            labels={"cash, refunds": 8, 'parcels, "late"': 8, "account": 8},
        ),
        Case(
            "26b-unquoted-commas.csv",
            raw_table([(text.replace(" ", ", ", 1), label) for text, label in PAIRS], ",").encode(),
            error=("more cells than the header's 2", ":2"),
        ),
        Case("27-same-train-val.csv", plain.encode()),
        Case("28b-raw-quotes.tsv", raw_table(changed({3: ('"so" he wrote', "refund")}), "\t").encode()),
        Case("28c-inch.tsv", raw_table(changed({3: ('the 27" screen', "refund")}), "\t").encode()),
        Case("28d-unclosed.tsv", raw_table(changed({0: ('"never closed', "refund")}), "\t").encode()),
        Case(
            "28e-backslash-escaped.csv",
            raw_table(
                [("text", "label"), *((f'"I said \\"{text}\\", twice"', label) for text, label in PAIRS)][1:], ","
            ).encode(),
        ),
        Case(
            "29-swapped-columns.csv",
            table(((label, text) for text, label in PAIRS)).encode(),
            error=("are the columns swapped?",),
        ),
        Case("29b-two-rows-per-label.csv", b"text,label\na b,x\nc d,x\ne f,y\n", error=("'y'", ":4")),
        Case(
            "29c-text2text.jsonl",
            lines(records([(f"shorten: {text}", text[:9]) for text, _ in PAIRS[:7]], "input", "output")).encode(),
            error=("encoder, which classifies but does not write text",),
        ),
        Case(
            "29d-score-regression.csv",
            table((text, f"0,{number:02}") for number, (text, _) in enumerate(PAIRS)).encode(),
            error=("a different number",),
        ),
        Case(
            "29e-multi-label-pipes.csv",
            table(relabeled({"refund": "refund|urgent"})).encode(),
            labels={"refund|urgent": 8, "shipping": 8, "account": 8},
            warnings=("several labels joined by '|'",),
        ),
        Case("29f-one-hot.csv", table(one_hot, ("text", *LABELS)).encode(), format="csv (one column per label)"),
        Case(
            "29g-stars.jsonl",
            lines({"reviewText": text, "overall": 1.0 + number % 3} for number, (text, _) in enumerate(PAIRS)).encode(),
            labels={"1.0": 8, "2.0": 8, "3.0": 8},
            warnings=("all 3 labels are numbers",),
        ),
        Case(
            "29h-timestamp-labels.csv",
            table((text, f"2025-03-{number + 1:02}T09:30:00Z") for number, (text, _) in enumerate(PAIRS)).encode(),
            error=("a date or a time",),
        ),
        Case(
            "29i-long.csv",
            table(changed({4: (PAIRS[4][0] + " and then" * 1200, PAIRS[4][1])})).encode(),
            warnings=("1 text is cut to 10000 characters: file:6", "texts are longer than the"),
        ),
        Case("30-crlf-blank-lines.jsonl", jsonl.replace("\n", "\r\n\r\n").encode()),
        Case("30b-cr-only.csv", plain.replace("\n", "\r").encode()),
        Case("30c-cr-only.jsonl", jsonl.replace("\n", "\r").encode()),
        Case(
            "31-trailing-comma.jsonl", jsonl.replace("}\n", "},\n").encode(), error=("a comma after the object", ":1")
        ),
        Case(
            "31b-object-trailing-comma.jsonl",
            jsonl.replace("}\n", ",}\n").encode(),
            error=("a comma before the closing bracket", ":1"),
        ),
        Case(
            "31c-python-repr.jsonl",
            "".join(f"{row}\n" for row in records()).encode(),
            error=("single quotes", ":1"),
        ),
        Case("32b-pretty-array.json", json.dumps(records(), indent=2).encode(), format="json"),
        Case("32c-pretty-array.jsonl", json.dumps(records(), indent=2).encode(), format="json"),
        Case("32e-pretty-objects.jsonl", "\n".join(json.dumps(row, indent=1) for row in records()).encode()),
        Case(
            "32g-api-body-as-file.json",
            json.dumps({"name": "x", "examples": records(PAIRS, "input", "output")}).encode(),
            format="json",
        ),
        Case("32h-array-format-jsonl.json", json.dumps(records()).encode(), fields={"format": "jsonl"}),
        Case("32i-jsonl-in-json-ext.json", jsonl.encode(), format="jsonl"),
        Case("32j-jsonl-in-txt.txt", jsonl.encode(), format="jsonl"),
        Case("33-jsonl-gz.jsonl.gz", gzip.compress(jsonl.encode(), mtime=0), format="jsonl"),
        Case("33b-jsonl-gz-named.jsonl", gzip.compress(jsonl.encode(), mtime=0), format="jsonl"),
        Case("33c-data.zip", zipped(plain), error=("a ZIP archive: unpack it",)),
        Case("33d-zip-as.csv", zipped(plain), error=("a ZIP archive: unpack it",)),
        Case("34-book.xlsx", b"PK\x03\x04 xl/workbook.xml, but no archive", error=("save",)),
        Case("35-table.parquet", b"PAR1" + bytes(200) + b"PAR1", error=("Parquet",)),
        Case("36-empty.csv", b"", error=("the file is empty",)),
        Case("36b-header-only.csv", b"text,label\n", error=("no rows",)),
        Case("36c-empty.jsonl", b"", error=("the file is empty",)),
        Case("37-ok.csv", plain.encode(), format="csv"),
        Case("37-ok.jsonl", jsonl.encode(), format="jsonl"),
        Case("37c-tab.csv", table(PAIRS, delimiter="\t").encode(), format="tsv"),
        Case(
            "41-disclaimer-first.csv",
            table(long_texts(disclaimer)).encode(),
            warnings=("24 of 24 texts are longer than the", "the same to the backbone as a text of another label"),
        ),
        Case(
            "42-outlook-html.csv",
            table(long_texts(html, "</body></html>")).encode(),
            warnings=("24 of 24 texts are longer than the", "the same to the backbone as a text of another label"),
        ),
        Case("42b-light-html.csv", table(long_texts("<p>", "</p>")).encode()),
        Case(
            "44-code.jsonl",
            lines(
                records([(f"def f{text[:3]}(x):\n    return {{x: '{text}'}}", label) for text, label in PAIRS])
            ).encode(),
        ),
        Case(
            "45-urls.jsonl",
            lines(records([(f"https://shop.example/{label}?id={len(text)}", label) for text, label in PAIRS])).encode(),
        ),
        Case("46-base.csv", plain.encode()),
        Case("50-lang-en.jsonl", jsonl.encode()),
        Case(
            "50-lang-de.jsonl",
            lines(records(written_in(GERMAN))).encode(),
            warnings=("splits each word of the texts",),
        ),
        Case(
            "50-lang-es.jsonl",
            lines(records(written_in(SPANISH))).encode(),
            warnings=("Languages",),
        ),
        Case(
            "50-lang-zh.jsonl",
            lines(
                records([(f"{'我想退款' * (number + 1)}", label) for number, (_, label) in enumerate(PAIRS)])
            ).encode(),
            warnings=("does not know", "Chinese characters"),
        ),
        Case(
            "51-small-ar.jsonl",
            lines(records([(f"أريد استرداد {number}", label) for number, (_, label) in enumerate(PAIRS)])).encode(),
            warnings=("Arabic letters",),
        ),
        Case(
            "51-small-ja.jsonl",
            lines(records([(f"お金を返して {number}", label) for number, (_, label) in enumerate(PAIRS)])).encode(),
            warnings=("does not know",),
        ),
        Case(
            "60b-two-new-labels-only.jsonl",
            lines(
                records(
                    [
                        (f"{text} {number}", label)
                        for label, [(text, _)] in (("escalation", once["a"]), ("sales", once["b"]))
                        for number in range(4)
                    ]
                )
            ).encode(),
            labels={"escalation": 4, "sales": 4},
        ),
        Case(
            "62-imbalance-1-200.csv",
            table(
                [
                    *((f"all good at station {'abcdef'[number % 6]} {number}", "normal") for number in range(600)),
                    *((f"it burns {number}", "safety") for number in range(3)),
                ]
            ).encode(),
            labels={"normal": 600, "safety": 3},
        ),
        Case(
            "63-77-labels.csv",
            table((f"{text} {label}", f"team {label}") for label in range(77) for text, _ in PAIRS[:8]).encode(),
            labels={f"team {label}": 8 for label in range(77)},
        ),
        Case(
            "70-t2t.jsonl",
            lines(records([(text, f"{text} {{}}\nplease") for text, _ in PAIRS], "input", "output")).encode(),
            error=("encoder, which classifies but does not write text",),
        ),
    ]
