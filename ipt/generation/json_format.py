"""JSON output: a checked schema, and which tokens a text may continue with so that it fits the schema.

The package `llguidance` compiles schemas and computes the tokens. An extra installs it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ipt.backbones.interface import TokenIds
from ipt.errors import BackboneError, IptError

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_SCHEMA_BYTES = 32 * 1024
MAX_DEPTH = 32
"""Most schemas within each other."""
MAX_CLOSING_TOKENS = 4096
EXTRA = "pip install 'intrinsic-prompt-tuning[writer]'"
_PARAM = "format"
_SUBSCHEMAS = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
_LISTS_OF_SUBSCHEMAS = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAPS_OF_SUBSCHEMAS = ("properties", "patternProperties")
# The shortest ends of strings, objects, arrays and literals, in an order that never opens more than it must.
_CLOSERS = ('"', "}", "]", ",", ":", "0", "1", "{", "[", "n", "t")


@dataclass(frozen=True)
class JsonSchema:
    """A JSON schema that a text can be made to fit. Objects have the properties that it lists, in its order."""

    grammar: str

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> JsonSchema:
        """Check a schema.

        Raises:
            IptError: the schema is empty, recursive or too large, fits no value, or has a keyword that is not
                supported; or the package `llguidance` is not installed.
        """
        if importlib.util.find_spec("llguidance") is None:
            raise IptError(f"JSON output needs the package llguidance: run `{EXTRA}`", param=_PARAM)
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise _invalid(f"is not JSON: {error}") from None
        if len(text) > MAX_SCHEMA_BYTES:
            raise _invalid(f"has {len(text):,} bytes, of at most {MAX_SCHEMA_BYTES:,}: send a smaller one")
        closed = json.loads(text)
        for subschema, place in _walk(closed, closed, "", ()):
            if not any(keyword not in _ANNOTATIONS for keyword in subschema):
                raise _invalid(f"is empty{place}, so that any JSON fits: name a type there")
            if "properties" in subschema or subschema.get("type") == "object":
                subschema.setdefault("additionalProperties", False)
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(closed))
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
        if failed:
            raise _invalid(f"cannot be used: {messages[0][:300]}")
        return cls(grammar)


_ANNOTATIONS = frozenset(
    ("$schema", "$id", "$defs", "definitions", "$comment", "title", "description", "default", "examples")
)


def _walk(schema: Any, root: Any, place: str, within: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each schema that a value may have to fit, with its place, through references."""
    if not isinstance(schema, dict):
        if schema is False:
            return
        raise _invalid(f"is {json.dumps(schema)[:40]}{place}, expected an object with a type")
    if len(within) > MAX_DEPTH:
        raise _invalid(f"has more than {MAX_DEPTH} schemas within each other")
    yield schema, place
    reference = schema.get("$ref")
    if reference is not None:
        if reference in within:
            raise _invalid(f"is recursive: {str(reference)[:60]!r} contains itself. Write out the depth that you need")
        yield from _walk(_resolve(reference, root), root, f" at {str(reference)[:60]}", (*within, reference))
    for keyword, child in _children(schema):
        inner = f"{place} in {keyword}" if place else f" in {keyword}"
        yield from _walk(child, root, inner, (*within, ""))


def _children(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _SUBSCHEMAS:
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in _LISTS_OF_SUBSCHEMAS:
        for child in schema[keyword] if isinstance(schema.get(keyword), list) else []:
            yield keyword, child
    for keyword in _MAPS_OF_SUBSCHEMAS:
        children = schema.get(keyword)
        for name, child in children.items() if isinstance(children, dict) else []:
            yield f"{keyword}.{name[:40]}", child


def _resolve(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _invalid(f"refers to {str(reference)[:60]!r}: only references within the schema are supported")
    target = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise _invalid(f"refers to {reference[:60]!r}, which it does not have")
        target = target[key]
    return target


def _invalid(what: str) -> IptError:
    return IptError(f"the JSON schema {what}", param=_PARAM)


class JsonTokens:
    """The vocabulary of a backbone, prepared for schemas; that takes a second, and a matcher microseconds."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, stop_tokens: Collection[int]) -> None:
        """Prepare the vocabulary.

        Raises:
            BackboneError: the tokenizer is not of bytes, so that its tokens do not add up to a text.
        """
        from llguidance import LLTokenizer

        definition = tokenizer.backend_tokenizer.to_str()
        try:
            self._tokenizer = LLTokenizer(definition, n_vocab=vocabulary_size, eos_token=sorted(stop_tokens))
        except Exception as error:  # noqa: BLE001 - the package raises errors of several types
            raise BackboneError(
                f"the backbone's tokenizer cannot write JSON ({str(error)[:200]}): choose a backbone with a tokenizer "
                "of bytes, such as those of GPT-2, Llama 3, Qwen or SmolLM2",
                param=_PARAM,
            ) from None
        self._closers = [
            token for text in _CLOSERS if len(tokens := self._tokenizer.tokenize_str(text)) == 1 for token in tokens
        ]

    def matcher(self, schema: JsonSchema) -> JsonMatcher:
        """Return a matcher at the start of a text.

        Raises:
            IptError: the schema is too complex.
        """
        from llguidance import LLMatcher

        matcher = JsonMatcher(LLMatcher(self._tokenizer, schema.grammar, log_level=0), self._closers)
        matcher.allowed()
        return matcher


class JsonMatcher:
    """Follows one text, token by token."""

    def __init__(self, matcher: LLMatcher, closers: TokenIds) -> None:
        self._matcher = matcher
        self._closers = closers

    def allowed(self) -> NDArray[np.bool_]:
        """Return for each token of the vocabulary whether the text may continue with it: [V].

        Raises:
            IptError: the schema is too complex.
        """
        allowed: NDArray[np.bool_] = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8) != 0
        self._check()
        return allowed

    def accept(self, token: int) -> None:
        """Continue the text with an allowed token."""
        self._matcher.consume_token(token)
        self._check()

    def close(self) -> TokenIds:
        """Return tokens that end the text so that it fits the schema, and accept them.

        Raises:
            IptError: no short end was found, as for a pattern that only a long text fits.
        """
        tokens: TokenIds = []
        while not self._matcher.is_accepting():
            if len(tokens) > MAX_CLOSING_TOKENS:
                raise _invalid("has a value that cannot be ended: ask for more tokens, or allow shorter values")
            forced = self._matcher.compute_ff_tokens()
            for token in forced or [self._closer(len(tokens))]:
                self.accept(token)
                tokens.append(token)
        return tokens

    def _closer(self, number: int) -> int:
        allowed = self.allowed()
        for token in self._closers:
            if allowed[token]:
                return token
        # Another one at each place, so that a pattern cannot demand the same token forever.
        others = np.flatnonzero(allowed)
        return int(others[number % len(others)])

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _invalid(f"cannot be followed: {self._matcher.get_error()[:200]}")
