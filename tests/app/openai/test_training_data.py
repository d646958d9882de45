"""Training files in all formats become examples; a wrong file is rejected by line and field."""

import json
from typing import Any

import pytest

from app.openai.json_lines import LineError
from app.openai.training_data import TrainingData, read_conversations, training_data


def chat(user: str, assistant: str, system: str | None = "You sort tickets.") -> bytes:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return json.dumps({"messages": messages}).encode()


def jsonl(*records: Any) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


def turns(*texts: str, **last: Any) -> dict[str, Any]:
    """Return a line of alternating messages of user and assistant; `last` changes the last one."""
    roles = ("user", "assistant") * len(texts)
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    messages[-1] |= last
    return {"messages": messages}


def data_of(content: bytes, **options: Any) -> TrainingData:
    return training_data(list(read_conversations(content)), **({"max_chars": 1000} | options))


def pairs(content: bytes, **options: Any) -> list[tuple[str, str]]:
    return [(example["input"], example["output"]) for example in data_of(content, **options).examples]


def test_a_constant_system_message_is_left_out_and_reported() -> None:
    data = data_of(chat("refund me", "billing") + b"\n" + chat("no login", "login"))
    assert data.examples == [{"input": "refund me", "output": "billing"}, {"input": "no login", "output": "login"}]
    assert not data.with_system
    assert "system message" in data.notes[0]


def test_system_messages_that_differ_are_part_of_the_input() -> None:
    data = data_of(chat("hi", "a", "formal") + b"\n" + chat("hi", "b", "casual"))
    assert data.with_system
    assert [example["input"] for example in data.examples] == ["system: formal\nuser: hi", "system: casual\nuser: hi"]


def test_every_trained_answer_of_a_conversation_is_an_example() -> None:
    assert pairs(jsonl(turns("a", "b", "c", "d"))) == [("a", "b"), ("user: a\nassistant: b\nuser: c", "d")]


def test_an_answer_of_weight_0_is_context_only() -> None:
    line = turns("a", "b", "c", "d")
    line["messages"][1]["weight"] = 0
    assert pairs(jsonl(line)) == [("user: a\nassistant: b\nuser: c", "d")]


def test_a_long_conversation_keeps_its_last_turns() -> None:
    [_, (text, _)] = pairs(jsonl(turns("a" * 50, "b", "c", "d")), max_chars=30)
    assert text == "assistant: b\nuser: c"
    [_, (text, _)] = pairs(jsonl(turns("a", "b", "c" * 50, "d")), max_chars=30)
    assert text == "user: " + "c" * 50


def test_text_parts_are_joined() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    line = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]}
    assert pairs(jsonl(line)) == [("one\ntwo", "x")]


@pytest.mark.parametrize("separator", ["\n\n###\n\n", " ->", " =>"])
def test_the_customs_of_the_legacy_format_are_taken_off_and_reported(separator: str) -> None:
    lines = [
        {"prompt": f"{text}{separator}", "completion": f" {label} END"} for text, label in (("a", "x"), ("b", "y"))
    ]
    data = data_of(jsonl(*lines))
    assert data.examples == [{"input": "a", "output": "x"}, {"input": "b", "output": "y"}]
    assert [word for note in data.notes for word in ("separators", "'END'") if word in note] == ["separators", "'END'"]


def test_an_ending_of_some_completions_only_is_no_stop_sequence() -> None:
    lines = [{"prompt": "a", "completion": " the END"}, {"prompt": "b", "completion": " other"}]
    assert [output for _, output in pairs(jsonl(*lines))] == ["the END", "other"]


def test_pairs_are_taken_as_they_are() -> None:
    data = data_of(jsonl({"input": " a ->", "output": "x END"}))
    assert (data.examples, data.notes) == ([{"input": " a ->", "output": "x END"}], [])


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (['["a", "b"]', '["a"]', '["b"]', "[]"], True),
        (['["a", "b"]', '["c", "d"]', '["a"]'], False),  # names that do not repeat, as in an extraction
        (['["a", "b"]', '["a"]', '["b"]', "a"], False),
        (['["a", ""]', '["a", ""]'], False),
        (["[1]", "[1]"], False),
        ([["a", "b"], "c"], True),
        (["[]"], False),
    ],
)
def test_lists_of_names_that_repeat_are_lists_of_labels(outputs: list[Any], expected: bool) -> None:
    pairs = jsonl(*({"input": f"text {number}", "output": output} for number, output in enumerate(outputs)))
    assert data_of(pairs).has_label_lists is expected


def test_a_byte_order_mark_line_ends_and_blank_lines_do_not_matter() -> None:
    data = data_of(b"\xef\xbb\xbf" + chat("a", "x") + b"\r\n\r\n" + chat("b", "y") + b"\r\n")
    assert (data.lines, len(data.examples)) == ([1, 3], 2)


GOOD = chat("refund me", "billing") + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            jsonl({"messages": [{"role": "user", "content": "a"}]}),
            "line 2, messages: the last message must be the assistant's",
        ),
        (jsonl(turns("a", "b", "c")), "line 2, messages: the last message must be the assistant's"),
        (jsonl({"messages": turns("a", "b")["messages"][::-1]}), "line 2, messages: the first message after"),
        (jsonl(turns("a", "b", role="system")), "line 2, messages: the system message must be the first"),
        (jsonl(turns("a", "b", role="tool")), "line 2, messages[1]: tool calls are not supported"),
        (jsonl(turns("a", "b", tool_calls=[{}])), "line 2, messages[1]: tool calls are not supported"),
        (jsonl(turns("a", "b") | {"tools": [{}]}), "line 2, tools: tool calls are not supported"),
        (jsonl(turns("a", "b", content=[{"type": "image_url"}])), "line 2, messages[1]: only text is supported"),
        (jsonl(turns("a", "b", weight=2)), "line 2, messages[1].weight: must be 0 or 1"),
        (jsonl(turns("a", "b", weight=0)), "line 2, messages: every message of the assistant has weight 0"),
        (jsonl(turns("a", "b", content="")), "line 2, messages[1].content: must contain"),
        (jsonl(turns("a", "b", content=None)), "line 2, messages[1].content: must be text"),
        (jsonl(turns("a", "b", role="robot")), "line 2, messages[1].role: must be"),
        (jsonl({"prompt": "a", "completion": "b"}), "line 2: has prompt and completion, but the lines before"),
        (jsonl({"question": "a"}), "line 2: expected an object with messages"),
        (b'{"messages": [],}', "line 2: not JSON"),
        (GOOD.strip() + b",", "line 2: not JSON"),
        (b"[]", "line 2: expected a JSON object"),
        (b'{"messages": "\xff"}', "line 2: not UTF-8 text, or it contains a NUL character: save the file as UTF-8"),
        (jsonl({"messages": []}), "line 2, messages: the first message after"),
    ],
)
def test_a_wrong_line_is_rejected_by_line_and_field(line: bytes, message: str) -> None:
    with pytest.raises(LineError) as raised:
        list(read_conversations(GOOD + line))
    assert str(raised.value).startswith(message)


def test_an_empty_file_is_rejected() -> None:
    with pytest.raises(LineError, match="the file is empty"):
        list(read_conversations(b"\n"))
