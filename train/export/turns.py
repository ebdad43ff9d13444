"""What every reader does with texts, times and turns, whatever format they come from. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from train.conversation import Conversation, Message, Rating, Role
from train.export.report import Told, Unusable

ID_CHARS = 200
TITLE_CHARS = 500
WORD_CHARS = 40
"""Of what a file calls something, in a reason."""
LATEST = 1e11
"""Unix seconds; what is more are thousandths, or thousandths of these."""
FENCES = re.compile(r"`{3,}")


class Turns:
    """A conversation while it is read. What the same one says twice in a row is one turn."""

    def __init__(self) -> None:
        self._said: list[dict[str, Any]] = []
        self.tags: set[str] = set()
        self.model = ""

    def add(
        self,
        role: Role,
        text: str,
        at: float | None = None,
        flaw: str | None = None,
        rating: Rating | None = None,
    ) -> None:
        """What somebody said; nothing, where that is nothing."""
        text = clean(text).strip()
        if not text:
            return
        last = self._said[-1] if self._said else None
        if last is not None and last["role"] == role:
            last["content"].append(text)
            last["flaw"] = flaw or last["flaw"]
            last["rating"] = rating or last["rating"]
        else:
            self._said.append({"role": role, "content": [text], "at": at, "flaw": flaw, "rating": rating})

    def conversation(
        self,
        source: str,
        identity: object,
        told: Told,
        *,
        title: object = "",
        at: float | None = None,
        rating: Rating | None = None,
    ) -> Conversation:
        """All of it. Raises `Unusable` where nobody asked or nobody answered."""
        last = max((place for place, one in enumerate(self._said) if one["role"] == "assistant"), default=-1)
        messages = [
            # (The last answer's is the conversation's: what learns from thumbs needs it.)
            Message.model_validate(
                {
                    **one,
                    "content": "\n\n".join(one["content"]),
                    "weight": 0.0 if one["rating"] == "down" and place != last else 1.0,
                }
            )
            for place, one in enumerate(self._said)
        ]
        return finished(
            Conversation(
                id=named_id(source, identity),
                source=source,
                title=clean(title)[:TITLE_CHARS] if isinstance(title, str) else "",
                at=at if at is not None else next((m.at for m in messages if m.at is not None), None),
                model=clean(self.model)[:ID_CHARS],
                rating=rating,
                tags=tuple(sorted(self.tags)),
                messages=tuple(messages),
            ),
            told,
        )


def finished(conversation: Conversation, told: Told) -> Conversation:
    """Without a question at its end that nobody answered, and with an id. Raises `Unusable`."""
    messages = list(conversation.messages)
    while messages and messages[-1].role not in ("assistant",):
        told.left("messages", "after the last answer", 1)
        messages.pop()
    if not messages:
        raise Unusable("nobody answered")
    if not any(message.role == "user" for message in messages):
        raise Unusable("nobody asked")
    whole = conversation.model_copy(update={"messages": tuple(messages)})
    if whole.id:
        return whole
    return whole.model_copy(update={"id": f"{whole.source or 'data'}-{whole.digest()[:24]}"})


def named_id(source: str, identity: object) -> str:
    """The same at every import; empty where the source has none."""
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity.strip():
        return ""
    return f"{source}-{clean(identity).strip()[:ID_CHARS]}"


def clean(text: str) -> str:
    """Without what is no character: halves of a pair, which some exports hold, and NUL."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        # (Two halves that stand beside each other are one character.)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def moment(value: object) -> float | None:
    """Unix seconds of a number or of an ISO date, as exports write them; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            seconds = float(value)
        except OverflowError:
            return None
    elif isinstance(value, str):
        try:
            told = datetime.fromisoformat(value.strip())
            seconds = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    else:
        return None
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    while seconds > LATEST:
        seconds /= 1000
    return round(seconds, 6)


def word(value: object) -> str:
    """What a file calls something, fit to be read in a reason."""
    text = value if isinstance(value, str) else type(value).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in clean(text)[:WORD_CHARS])


def objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects of a list; of anything else none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        yield from (one for one in value if isinstance(one, Mapping))


def at_key(value: object, *keys: str) -> Any:
    """What lies under these keys; None where something on the way is no object."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def text_at(value: object, *keys: str) -> str:
    """The text that lies there; empty where there is none."""
    found = at_key(value, *keys)
    return found if isinstance(found, str) else ""


def replaced(text: str, opens: str, closes: str, by: Callable[[str], str]) -> str:
    """A text with something else in place of all from `opens` to the next `closes`; what is not closed stays. (In
    one pass, whatever the text: a pattern would look for the end of each that has none.)"""
    pieces: list[str] = []
    place = 0
    while (begin := text.find(opens, place)) >= 0:
        inside = begin + len(opens)
        end = text.find(closes, inside)
        if end < 0:
            break
        pieces += text[place:begin], by(text[inside:end])
        place = end + len(closes)
    return "".join([*pieces, text[place:]])


def fenced(code: str, language: str = "") -> str:
    """A block of code in Markdown."""
    fence = "`" * max([3, *(len(found) + 1 for found in FENCES.findall(code))])
    # (A language is a word: what is no word would end the block's first line.)
    name = language if re.fullmatch(r"[\w+#.-]{1,30}", language) else ""
    return f"{fence}{name}\n{code.strip(chr(10))}\n{fence}"
