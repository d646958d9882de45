"""Read a project's labeling configuration: which choices annotate which text."""

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from app.errors import InvalidError

MAX_CONFIG_CHARS = 200_000


@dataclass(frozen=True, slots=True)
class TextChoices:
    """A `Choices` tag of a text."""

    from_name: str
    to_name: str
    field: str
    """The field of a task's `data` that has the text."""

    def text_of(self, data: object) -> str | None:
        """Return the text of a task with this `data`; None if its field is missing or has no text."""
        text = data.get(self.field) if isinstance(data, dict) else None
        return text if isinstance(text, str) and text.strip() else None

    def labels_of(self, regions: object) -> list[str]:
        """Return the choices in the `result` of an annotation."""
        labels: list[str] = []
        for region in regions if isinstance(regions, list) else []:
            if isinstance(region, dict) and region.get("from_name") == self.from_name:
                value: Any = region.get("value")
                choices = value.get("choices") if isinstance(value, dict) else None
                labels += [each for each in choices if isinstance(each, str)] if isinstance(choices, list) else []
        return list(dict.fromkeys(labels))


def text_choices(label_config: str, param: str) -> TextChoices:
    """Return the first choices of a text in a labeling configuration; `param` is the field that has it.

    Raises:
        InvalidError: it is not XML, or annotates no text with choices.
    """
    # A document type can define entities that expand to gigabytes; configurations have none.
    if len(label_config) > MAX_CONFIG_CHARS or "<!DOCTYPE" in label_config or "<!ENTITY" in label_config:
        raise _error("has a document type, or is too long", param)
    try:
        root = ET.fromstring(label_config)  # noqa: S314 - entities are refused above
    except ET.ParseError as error:
        raise _error("is not XML", param) from error
    texts = {tag.get("name"): tag.get("value", "") for tag in root.iter() if tag.tag in ("Text", "HyperText")}
    for tag in root.iter("Choices"):
        value = texts.get(tag.get("toName"), "")
        name, to_name = tag.get("name"), tag.get("toName")
        if name and to_name and value.startswith("$") and len(value) > 1:
            return TextChoices(name, to_name, value[1:])
    raise _error("has no Choices of a Text whose value is a field, such as $text", param)


def _error(fault: str, param: str) -> InvalidError:
    return InvalidError(
        f'the labeling configuration {fault}: expected such as <View><Text name="text" value="$text"/><Choices '
        'name="label" toName="text"><Choice value="billing"/></Choices></View>',
        code="label_config_not_supported",
        param=param,
    )
