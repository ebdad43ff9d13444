"""An import: files of any form, one after the other, to one JSONL file of conversations and a report.

What is broken costs only itself. The same files give the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from train.conversation import Conversation, DataError, Rating, write_conversations
from train.export import chatgpt
from train.export.archive import Damaged, Export, Part, Progress, open_export
from train.export.detect import CONTAINERS, FORMATS, THREADS, Format, format_of
from train.export.elements import Broken, Element, Text, array, lines
from train.export.report import ImportedFile, Report, Tally, Told, Unusable, named

LOOKED_AT = 20
"""Elements of a file that are looked at for one of a known form."""
WHOLE_CHARS = 1 << 20
"""Of an object that is looked at as a whole, before it is looked into."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MOST_FIELDS = 8

SHAPES = (TypeError, ValueError, KeyError, AttributeError, LookupError, RecursionError)
"""What a form that nobody has foreseen raises."""


@dataclass(frozen=True)
class Layout:
    """How a file holds its conversations. `inside`: the field of its one object under which they are."""

    format: Format
    lines: bool = False
    whole: bool = False
    inside: str | None = None


class Import:
    """Reads files into conversations. `report` says what became of them, once they are read."""

    def __init__(self, format_name: str | None = None, since: float | None = None) -> None:
        """`format_name`: the form of all files; None: it is found out of each. `since`: Unix seconds; what is
        older is left. Raises `DataError`."""
        if format_name is not None and format_name not in FORMATS:
            raise DataError(f"there is no format {format_name!r}; there are {', '.join(FORMATS)}")
        self._forced = FORMATS[format_name] if format_name else None
        self._since = since
        self.report = Report()
        self._taken: dict[str, bytes] = {}
        """What a conversation said, by its id."""

    def files(self, paths: Sequence[Path], progress: Progress | None = None) -> Iterator[Conversation]:
        """All conversations in them."""
        for path in paths:
            with ExitStack() as opened:
                try:
                    export = opened.enter_context(open_export(path))
                except DataError as error:
                    self.report.leave("files", str(error), path.name)
                    continue
                yield from self._export(export, progress)

    def rows(self, name: str, values: Iterable[Mapping[str, Any]], form: Format) -> Iterator[Conversation]:
        """Conversations that come from elsewhere than a file."""
        file = ImportedFile(name, form.name, 0)
        self.report.files.append(file)
        for number, value in enumerate(values, 1):
            yield from self._one(Element(number, value), form, file, {})

    def _export(self, export: Export, progress: Progress | None) -> Iterator[Conversation]:
        for name, why in export.refused:
            self.report.leave("files", why, name)
        ratings = self._ratings(export.ratings)
        for part in export.parts:
            try:
                layout = self._look(part)
            except (Damaged, Broken, DataError) as error:
                self.report.leave("files", str(error), part.name)
                continue
            file = ImportedFile(part.name, layout.format.name, part.size)
            self.report.files.append(file)
            with part.open(progress) as opened:
                for element in _elements(opened, layout):
                    yield from self._one(element, layout.format, file, ratings)

    def _ratings(self, part: Part | None) -> dict[str, Rating]:
        if part is None:
            return {}
        try:
            with part.open() as file:
                return chatgpt.read_ratings(Text(file).value())
        except (Damaged, Broken) as error:
            self.report.leave("files", f"ratings: {error}", part.name)
            return {}

    def _look(self, part: Part) -> Layout:
        """How a file holds conversations, and of which form. Raises `DataError`, `Damaged` or `Broken`."""
        with part.open() as file:
            text = Text(file)
            begins = text.peek()
            if begins == "[":
                text.take()
                return Layout(self._form(array(text)))
            if begins != "{":
                raise DataError("it is empty" if not begins else "it is no JSON")
            try:
                whole = text.value(WHOLE_CHARS)
            except Broken:
                whole = None
            if whole is not None and text.peek() == "":
                return self._look_into(whole)
        # (One object that is long may hold all conversations, or be one. More than one are lines.)
        ways = (
            (self._look_inside, self._look_at_lines, self._look_at_whole)
            if whole is None
            else (self._look_at_lines,)
        )
        problem: Exception | None = None
        for look in ways:
            try:
                return look(part)
            except (DataError, Broken) as error:
                problem = error
        assert problem is not None
        raise problem

    def _look_inside(self, part: Part) -> Layout:
        with part.open() as file:
            text = Text(file)
            inside = _enter(text, None)
            if inside is None:
                raise DataError("it holds no array of conversations")
            return Layout(self._form(array(text, whole=False), inside), inside=inside)

    def _look_at_lines(self, part: Part) -> Layout:
        with part.open() as file:
            return Layout(self._form(lines(file)), lines=True)

    def _look_at_whole(self, part: Part) -> Layout:
        with part.open() as file:
            return self._look_into(Text(file).value())

    def _look_into(self, whole: Mapping[str, Any]) -> Layout:
        form = self._forced or format_of(whole)
        if form is not None and form.claims(whole):
            return Layout(form, whole=True)
        for key in CONTAINERS:
            if isinstance(whole.get(key), list):
                elements = (Element(number, one) for number, one in enumerate(whole[key], 1))
                return Layout(self._form(elements, key), inside=key)
        if self._forced is not None:
            return Layout(self._forced, whole=True)
        raise DataError(_unknown(whole))

    def _form(self, elements: Iterable[Element], inside: str | None = None) -> Format:
        """The form of the first element that has a known one."""
        first: Element | None = None
        for element in elements:
            if isinstance(element.value, dict):
                # (Who names a form is believed, but not that a part of a conversation is one.)
                if self._forced is not None and (inside is None or self._forced.claims(element.value)):
                    return self._forced
                form = None if self._forced else format_of(element.value)
                if form is not None:
                    return THREADS if inside == "threads" and THREADS.claims(element.value) else form
            if first is None or first.problem is not None:
                first = element
            if element.number >= LOOKED_AT:
                break
        if first is None:
            raise DataError("there is nothing in it")
        raise DataError(first.problem or _unknown(first.value))

    def _one(
        self, element: Element, form: Format, file: ImportedFile, ratings: Mapping[str, Rating]
    ) -> Iterator[Conversation]:
        """The conversation of an element, or none, and why."""
        value = element.value
        about = value if isinstance(value, dict) else {}
        title = about.get("title") or about.get("name") or about.get("context_title")
        identity = next((about[key] for key in ("conversation_id", "uuid", "id") if about.get(key)), "")
        where = named(title, identity, element.number, file.name)
        try:
            if element.problem is not None:
                raise Unusable(element.problem)
            if not isinstance(value, dict):
                raise Unusable("it is no object")
            own: Format | None = form
            if self._forced is None and not form.claims(value):
                own = format_of(value)
            if own is None:
                raise Unusable("it is of no known form")
            told = Told(ratings)
            conversation = self._unlike(self._dated(own.read(value, told)), told)
        except Unusable as error:
            self.report.leave("conversations", str(error), where)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            self.report.leave("conversations", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where)
        except SHAPES as error:
            self.report.leave("conversations", f"it is of an unknown shape ({type(error).__name__})", where)
        else:
            file.conversations += 1
            self.report.take(conversation, told, where)
            yield conversation

    def _dated(self, conversation: Conversation) -> Conversation:
        if self._since is not None and conversation.at is None:
            raise Unusable("its date is not known")
        if self._since is not None and conversation.at is not None and conversation.at < self._since:
            raise Unusable("it is older")
        return conversation

    def _unlike(self, conversation: Conversation, told: Told) -> Conversation:
        """With an id that no other has. The same once more is left; what has only its id in common is not."""
        digest = bytes.fromhex(conversation.digest())[:16]
        if self._taken.get(conversation.id) == digest:
            raise Unusable("it is there already")
        if conversation.id in self._taken:
            told.noticed("another conversation has its id: both were taken (an earlier export of the same?)")
            conversation = conversation.model_copy(update={"id": f"{conversation.id}~{digest.hex()[:8]}"})
            if conversation.id in self._taken:
                raise Unusable("it is there already")
        self._taken[conversation.id] = digest
        return conversation


def _elements(file: Any, layout: Layout) -> Iterator[Element]:
    if layout.lines:
        yield from lines(file)
        return
    text = Text(file)
    try:
        if layout.whole:
            yield Element(1, text.value())
            return
        if layout.inside is None:
            text.peek()
            text.take()
        else:
            _enter(text, layout.inside)
    except (Broken, Damaged) as error:
        yield Element(1, problem=str(error))
        return
    yield from array(text, partial(_is, layout.format), whole=layout.inside is None)


def _is(form: Format, value: Any) -> bool:
    return isinstance(value, dict) and form.claims(value)


def _enter(text: Text, wanted: str | None) -> str | None:
    """Go into the array of a large object that lies under `wanted`, or under the first key that may be a
    container; the key. None where there is none."""
    text.peek()
    text.take()
    while True:
        try:
            if text.peek() != '"':
                return None
            key = text.value()
            text.peek()
            text.take()
            if text.peek() == "[" and (key == wanted or (wanted is None and key in CONTAINERS)):
                text.take()
                return str(key)
            text.value()
            if text.peek() != ",":
                return None
            text.take()
        except (Broken, Damaged):
            return None


def _unknown(value: object) -> str:
    if not isinstance(value, Mapping):
        return "it holds no conversations of a known form: its first element is no object"
    fields = ", ".join(str(name)[:40] for name in list(value)[:MOST_FIELDS])
    return (
        f"it holds no conversations of a known form (its first object has the fields {fields}); "
        f"say which with --as: {', '.join(FORMATS)}"
    )


def name_for(path: Path) -> str:
    """What an import is called where nobody says."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.split(".")[0].lower()).strip("-._")
    return name[:63] or "import"


def write_import(folder: Path, name: str, importing: Import, conversations: Iterator[Conversation]) -> Path:
    """Write `<name>.jsonl` and `<name>.report.json`, in place of older ones; the first of them. Raises
    `DataError`, and leaves what was there, where there is nothing to write."""
    if not NAME.fullmatch(name):
        raise DataError(f"{name!r} is no name: small letters, digits, '.', '_' and '-', 63 of them at most")
    path = folder / f"{name}.jsonl"
    first = next(conversations, None)
    if first is None:
        raise DataError(f"there is no conversation that can be taken; {_why(importing.report)}")
    try:
        write_conversations(path, _chained(first, conversations))
    except BaseException:
        path.with_name(path.name + ".new").unlink(missing_ok=True)
        raise
    staged = folder / f"{name}.report.json.new"
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps({"name": name, **importing.report.as_dict()}, indent=2) + "\n")
    staged.replace(folder / f"{name}.report.json")
    return path


def _why(report: Report) -> str:
    """The first of the reasons."""
    kind, reason, tally = next(iter(report.lines()), ("files", "there is nothing in it", Tally()))
    return f"{', '.join(tally.examples) or kind}: {reason}"


def _chained(first: Conversation, rest: Iterator[Conversation]) -> Iterator[Conversation]:
    yield first
    yield from rest
