"""What a person gives us to import: a file, a folder, or a zip as services send it. Nothing is unpacked to disk.

A zip may be made to do harm. What it says of itself is held against limits before a byte is unpacked, and a file
in it that cannot be trusted costs only itself: names that climb out of it, sizes that explode, overlapping files,
encryption, links, archives in archives.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, TypeVar, cast

from train.conversation import DataError

MOST_RATIO = 250
"""Bytes for each packed one. (JSON of conversations: 5 to 20; what a packer can at most: 1,032.)"""
SMALL_BYTES = 1 << 20
"""Of a file whose ratio nobody minds."""
MOST_BYTES = 64 << 30
"""Of all that is read of one archive, unpacked."""
MOST_INDEX_BYTES = 16 << 20
"""Of a zip's index, which is in memory: names of some hundred thousand files."""
MOST_FILES = 200_000
"""In a folder."""
TAIL_BYTES = 22 + 65_535 + 76
"""In which a zip's end is, with its comment."""

JSON_NAMES = (".json", ".jsonl", ".ndjson")
ARCHIVE_NAMES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".bz2", ".xz", ".zst")
MAIN = re.compile(r"conversations(?:[-_ ]?\d{1,6})?\.jsonl?", re.IGNORECASE)
RATINGS = "message_feedback.json"
BESIDE = frozenset(
    {
        *("user", "users", "user_settings", "account", "manifest", "export_manifest", "message_feedback"),
        *("model_comparisons", "shared_conversations", "projects", "memories", "tool_messages", "group_chats"),
    }
)
"""JSON files of exports that hold no conversations."""

T = TypeVar("T")
Progress = Callable[[int], None]


class Damaged(Exception):
    """A file that cannot be read on: why."""


@dataclass(frozen=True)
class Part:
    """A file to read. `opened`: its bytes, from the first on, with all that they raise."""

    name: str
    size: int
    """Bytes, unpacked."""
    opened: Callable[[], IO[bytes]]

    def open(self, progress: Progress | None = None) -> BinaryIO:
        """Its bytes; `progress` hears of each that are read. Reading raises `Damaged`, and nothing else. Raises
        `Damaged`."""
        return cast(BinaryIO, io.BufferedReader(_Watched(self, progress), 1 << 18))


@dataclass
class Export:
    """What is to be read. `refused`: what is not, and why. `ratings`: what the export says of answers, apart."""

    parts: list[Part] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    ratings: Part | None = None


class _Watched(io.RawIOBase):
    def __init__(self, part: Part, progress: Progress | None) -> None:
        self._progress = progress
        self._file = _try(part.opened)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = _try(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        if self._progress is not None:
            self._progress(len(data))
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _try(act: Callable[[], T]) -> T:
    try:
        return act()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Damaged(f"the archive is damaged here ({error or 'it ends'}): download it again") from None
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"it cannot be read: {error}") from None


@contextmanager
def open_export(path: Path) -> Iterator[Export]:
    """What is to be read of a file, a folder or a zip. Raises `DataError` that says what to do."""
    if path.is_dir():
        yield _folder(path)
    elif not path.exists():
        raise DataError(f"{path}: there is no such file")
    elif not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    elif _begin(path)[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        with _zip(path) as packed:
            yield _of_zip(path.name, packed)
    else:
        yield Export([_file(path, path.name)])


def _begin(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            begin = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror}") from None
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path.name} is UTF-16: save it as UTF-8")
    if path.suffix.lower() in ARCHIVE_NAMES[1:] or begin[:2] == b"\x1f\x8b":
        raise DataError(f"{path.name}: unpack it, and give what was in it (zip files are read as they are)")
    if begin.lstrip()[:1] == b"<" or path.suffix.lower() in (".html", ".htm"):
        raise DataError(f"{path.name} is a page: give the whole zip of the export, or its conversations.json")
    if path.suffix.lower() == ".zip" and begin[:2] != b"PK":
        raise DataError(f"{path.name} is no zip: it may have been cut on its way here; download it again")
    return begin


def _file(path: Path, name: str) -> Part:
    return Part(name, path.stat().st_size, lambda: path.open("rb"))


def _folder(path: Path) -> Export:
    found: dict[str, Path] = {}
    seen = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        seen += len(names)
        if seen > MOST_FILES:
            raise DataError(f"{path} holds more than {MOST_FILES:,} files: give the folder of one export")
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink() and file.is_file():
                found[file.relative_to(path).as_posix()] = file
    export = Export()
    for name in _wanted(list(found), export):
        export.parts.append(_file(found[name], name))
    ratings = next((file for name, file in sorted(found.items()) if file.name == RATINGS), None)
    export.ratings = _file(ratings, RATINGS) if ratings else None
    return export


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    if _index_bytes(path) > MOST_INDEX_BYTES:
        raise DataError(f"{path.name} says that it holds more files than any export: it is not opened")
    try:
        packed = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} is no whole zip ({error}): it may have been cut on its way here; download it again"
        ) from None
    with packed:
        yield packed


def _index_bytes(path: Path) -> int:
    """How large a zip says that its index is, which would be read into memory; 0 where it does not say."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return 0
    said = int.from_bytes(tail[end + 12 : end + 16], "little")
    larger = tail.rfind(b"PK\x06\x06", 0, end)
    if said == 0xFFFFFFFF and larger >= 0:
        return int.from_bytes(tail[larger + 40 : larger + 48], "little")
    return said


def _of_zip(name: str, packed: zipfile.ZipFile) -> Export:
    export = Export()
    members: dict[str, zipfile.ZipInfo] = {}
    overlapping = _overlapping(packed.infolist())
    for member in packed.infolist():
        why = None if member.is_dir() else _not_trusted(member, overlapping)
        if why is not None:
            export.refused.append((_shown(member.filename), why))
        elif not member.is_dir():
            members[member.filename] = member
    total = 0
    for wanted in _wanted(list(members), export):
        total += members[wanted].file_size
        if total > MOST_BYTES:
            raise DataError(
                f"{name} holds more than {MOST_BYTES >> 30} GiB: unpack it, and give its files by parts"
            )
        export.parts.append(_member(packed, members[wanted]))
    ratings = next((one for one in sorted(members) if PurePosixPath(one).name == RATINGS), None)
    export.ratings = _member(packed, members[ratings]) if ratings else None
    return export


def _member(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> Part:
    return Part(_shown(member.filename), member.file_size, lambda: packed.open(member))


def _not_trusted(member: zipfile.ZipInfo, overlapping: frozenset[int]) -> str | None:
    """Why a file in a zip is not read; None: it may be."""
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        return "its name climbs out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a link"
    if name.lower().endswith(ARCHIVE_NAMES):
        return "it is an archive in the archive: unpack it, and give what is in it"
    if not name.lower().endswith(JSON_NAMES):
        return None
    if member.flag_bits & 1:
        return "it is encrypted: unpack it with its password, and give the folder"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed by a method that is not read here: pack it anew"
    if member.header_offset in overlapping:
        return "it lies over another: the archive is made to explode"
    if member.file_size > SMALL_BYTES and member.file_size > MOST_RATIO * max(1, member.compress_size):
        return f"it would unpack to more than {MOST_RATIO} times its size: the archive is made to explode"
    return None


def _overlapping(members: list[zipfile.ZipInfo]) -> frozenset[int]:
    """Where files begin that others lie over."""
    found: set[int] = set()
    end, before = 0, 0
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset < end:
            found |= {member.header_offset, before}
        if member.header_offset + member.compress_size > end:
            end, before = member.header_offset + member.compress_size, member.header_offset
    return frozenset(found)


def _wanted(names: list[str], export: Export) -> list[str]:
    """The files with conversations; of an export's others it is told that they are not read."""
    found = sorted(name for name in names if name.lower().endswith(JSON_NAMES))
    main = [name for name in found if MAIN.fullmatch(PurePosixPath(name).name)]
    wanted = main or [name for name in found if PurePosixPath(name).stem.lower() not in BESIDE]
    kept = {*wanted, *(name for name in names if PurePosixPath(name).name == RATINGS)}
    export.refused += [
        (_shown(name), "it holds no conversations" if name in found else "it is no JSON")
        for name in sorted(names)
        if name not in kept and not PurePosixPath(name).name.startswith(".")
    ]
    return wanted


def _shown(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
