"""Finds tool calls in an answer while it streams.

Three formats, because the models have three: hermes (`<tool_call>{json}</tool_call>`, Qwen3 and
Qwen2.5), Qwen3-Coder's XML inside the same tag, and the ```json fences or bare object that
Qwen2.5-Coder writes instead. Only names that the request declares are calls; anything else stays
text, to the letter. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAG_OPEN, TAG_CLOSE = "<tool_call>", "</tool_call>"
FENCE = "```"
_FENCE_OPEN = re.compile(r"```(?:json|tool_call|tool)?[ \t]*\n")
_FENCE_START = re.compile(r"```(?:j|js|jso|json|t|to|too|tool|tool_|tool_c|tool_ca|tool_cal|tool_call)?[ \t]*")
_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>(.*?)(?:</parameter>|(?=<parameter=)|(?=</function>)|\Z)", re.DOTALL
)


@dataclass(frozen=True)
class Text:
    """Ordinary content."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


Found = Text | ToolCall


class ToolParser:
    """`tools` maps each declared name to its parameters' JSON schema."""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self._tools = tools
        self._held = ""
        self._inside: str | None = None
        self._began = False
        self._called = False
        """Whether a call was the last thing that was given out."""
        self._blank = ""
        """White space after a call: content if text follows it, nothing between calls and at the end."""
        self._in_code = False
        """Inside an ordinary fenced block, whose end must not be taken for the beginning of a call."""

    def push(self, text: str) -> list[Found]:
        """Text and calls that became certain with `text`."""
        self._held += text
        found: list[Found] = []
        while True:
            before = self._held, self._inside
            found += self._outside() if self._inside is None else self._within(self._inside)
            if (self._held, self._inside) == before:
                return found

    def finish(self) -> list[Found]:
        """The rest, at the end of the answer: an unclosed call still counts if it is whole."""
        held, self._held = self._held, ""
        if self._inside is None:
            return self._text(held)
        body = held[len(self._opener(held)) :].removesuffix(FENCE)
        calls = self._calls(body)
        self._inside = None
        return list(calls) if calls else self._text(held)

    def _outside(self) -> list[Found]:
        """Give out text up to where a call may begin."""
        at, inside = self._next_opening()
        if at is None:
            return []
        out, self._held = self._held[:at], self._held[at:]
        self._inside = inside
        return self._text(out)

    def _next_opening(self) -> tuple[int | None, str | None]:
        """(how much text is certain, what opens after it): (None, None) to wait for more."""
        text = self._held
        if not text:
            return None, None
        if self._in_code:
            return self._to_end_of_code(text)
        if not self._began and text.lstrip().startswith("{"):
            return len(text) - len(text.lstrip()), "{"
        if not self._began and not text.strip():
            return None, None
        tag, fence = text.find(TAG_OPEN), text.find(FENCE)
        if tag >= 0 and (fence < 0 or tag < fence):
            return tag, TAG_OPEN
        if fence < 0:
            certain = _certain(text)
            return (certain, None) if certain else (None, None)
        if _FENCE_OPEN.match(text, fence):
            return fence, FENCE
        line = text[fence:]
        if "\n" not in line and _FENCE_START.fullmatch(line):
            return (fence, None) if fence else (None, None)
        self._in_code = True
        return fence + len(FENCE), None

    def _to_end_of_code(self, text: str) -> tuple[int | None, str | None]:
        end = text.find(FENCE)
        if end >= 0:
            self._in_code = False
            return end + len(FENCE), None
        certain = len(text.rstrip("`"))
        return (certain, None) if certain else (None, None)

    def _within(self, inside: str) -> list[Found]:
        """Wait for the end of what has opened; then it is a call, or text after all."""
        opener = self._opener(self._held)
        if inside == "{":
            end = _end_of_object(self._held)
            if end is None:
                return []
            body, whole = self._held[:end], end
        else:
            close = TAG_CLOSE if inside == TAG_OPEN else FENCE
            at = self._held.find(close, len(opener))
            while at >= 0 and _ends_in_string(self._held[len(opener) : at]):
                at = self._held.find(close, at + 1)  # that one is part of an argument's text
            if at < 0:
                return []
            body, whole = self._held[len(opener) : at], at + len(close)
        raw, self._held = self._held[:whole], self._held[whole:]
        self._inside = None
        calls = self._calls(body)
        if calls:
            self._began = self._called = True
            self._blank = ""
            return list(calls)
        return self._text(raw)

    @staticmethod
    def _opener(held: str) -> str:
        if held.startswith(TAG_OPEN):
            return TAG_OPEN
        match = _FENCE_OPEN.match(held)
        return match.group() if match else ""

    def _text(self, text: str) -> list[Found]:
        if self._called and not text.strip():
            self._blank += text
            return []
        if not text:
            return []
        text, self._blank, self._called = self._blank + text, "", False
        self._began = self._began or bool(text.strip())
        return [Text(text)]

    def _calls(self, body: str) -> list[ToolCall]:
        """All calls in `body`, or none: a body that is only partly calls is text."""
        functions = _FUNCTION.findall(body)
        if functions:
            calls = [self._xml_call(name.strip(), inner) for name, inner in functions]
        else:
            calls = [self._json_call(value) for value in _json_values(body)]
        known = [call for call in calls if call is not None]
        return known if len(known) == len(calls) else []

    def _json_call(self, value: Any) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        inner = value.get("function")
        if isinstance(inner, dict):
            value = inner
        name = value.get("name")
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, parse_constant=_refuse_constant)
            except ValueError:
                return None
        if not isinstance(name, str) or name not in self._tools or not isinstance(arguments, dict | None):
            return None
        return ToolCall(name, _json(arguments or {}))

    def _xml_call(self, name: str, inner: str) -> ToolCall | None:
        if name not in self._tools:
            return None
        properties = self._tools[name].get("properties") or {}
        arguments = {
            key.strip(): _typed(_unwrap(value), properties.get(key.strip(), {}))
            for key, value in _PARAMETER.findall(inner)
        }
        return ToolCall(name, _json(arguments))


def _certain(text: str) -> int:
    """How much of `text` cannot be the start of an opening tag or fence."""
    for mark in (TAG_OPEN, FENCE):
        for n in range(min(len(text), len(mark) - 1), 0, -1):
            if mark.startswith(text[-n:]):
                return len(text) - n
    return len(text)


def _end_of_object(text: str) -> int | None:
    """Where the JSON object that begins `text` ends; None while it is open or if it is no JSON."""
    if "}" not in text:
        return None
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return None


def _json_values(body: str) -> list[Any]:
    """JSON values written one after another; a single None where the body is not that."""
    decoder, values, at = json.JSONDecoder(parse_constant=_refuse_constant), [], 0
    body = body.strip()
    while at < len(body):
        try:
            value, at = decoder.raw_decode(body, at)
        except (ValueError, RecursionError):
            return [None]
        values.extend(value if isinstance(value, list) else [value])
        while at < len(body) and body[at] in " \t\r\n,;":
            at += 1
    return values


def _unwrap(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    """XML has only text: read it as the schema's type says, and keep the text where that fails."""
    if not isinstance(schema, Mapping) or schema.get("type", "string") == "string":
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {"true": True, "false": False, "none": None, "null": None}.get(value.lower(), value)


def _ends_in_string(body: str) -> bool:
    """Whether `body` is JSON that breaks off inside a string."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string")
    except RecursionError:
        return False
    return False


def _json(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON text that UTF-8 can carry (half a surrogate pair cannot be)."""
    return json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace").decode()


def _refuse_constant(name: str) -> Any:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not JSON")
