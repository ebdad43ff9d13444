"""The registry: a folder for each adapter, and older versions of a name in `.archive`.

| path in `Home.adapters` | what |
| --- | --- |
| `NAME/` | the present version: what is listed, promoted and served |
| `.archive/NAME@VERSION/` | an older one: whole, but not listed and not served; VERSION is when it was made |
| `.incoming/`, `.removed/` | what is being copied here, and what is being deleted |
| `.making/NAME@VERSION/` | a further form of one, until it is whole |

A new adapter takes its name and the older one goes into the archive, unless the older one *serves*: what serves is
never moved, and the new one becomes `NAME-2`, `NAME-3`, … A version gets into its place whole, by one rename;
whoever is killed between two steps has lost nothing, and publishes again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from filelock import FileLock, Timeout
from pydantic import ValidationError

from configs.adapters import (
    MANIFEST,
    REMOVED,
    AdapterManifest,
    Export,
    Gate,
    read_adapter,
    read_adapters,
    registry_lock,
    write_adapter,
)
from configs.training import ADAPTER_NAME, Form, JobSpec
from train.data_hash import data_hash
from train.publish.errors import RegistryError

ARCHIVE = ".archive"
KEEP = 3
"""Older versions of a name."""

_INCOMING = ".incoming"
_EXPORTING = ".exporting"
_MAKING = ".making"
_A_FORM = re.compile(rf"\.?({'|'.join(get_args(Form))})([-.].*)?")
"""Names within an adapter's folder."""
_VERSION = r"[0-9]{8}T[0-9]{9}Z"
_REFERENCE = re.compile(rf"(?P<name>{ADAPTER_NAME.strip('^$')})(@(?P<version>{_VERSION}))?")


def publish(
    spec: JobSpec,
    target: Path,
    exports: dict[str, Export],
    metrics: dict[str, float],
    gate: Gate | None,
    keep: int = KEEP,
) -> AdapterManifest:
    """Move the folder `target` into the registry. A job publishes once: asked again, what it became is told.

    Only `keep` older versions of its name stay. Raises `RegistryError`, `OSError`.
    """
    with registry_lock(spec.adapters):
        _sweep(spec.adapters)
        if (known := made_by(spec.adapters, spec.id)) is not None:
            shutil.rmtree(target, ignore_errors=True)  # Of a copy, what was copied.
            return known
        if not target.is_dir():
            raise RegistryError(f"{target} is not there, and no adapter was made by {spec.id}")
        name = free_name(spec.adapters, spec.name)
        folder = spec.adapters / name
        older = _read(folder)
        begun = _read(target)
        manifest = AdapterManifest(
            name=name,
            base=spec.base,
            created=time.time() if older is None else max(time.time(), older.created + 0.001),
            job=spec.id,
            data_hash=data_hash(spec.dataset),
            recipe=spec.recipe,
            seed=spec.seed,
            # (Where it was killed before, its parent may have left its place for the archive already.)
            parents=begun.parents if begun else tuple(_versioned(spec.adapters, one) for one in spec.parents),
            metrics=metrics,
            exports=exports,
            gate=gate,
        )
        write_adapter(target, manifest)
        staged = _beside(target, spec)
        if folder.exists():
            _archive(spec.adapters, folder, older)
        staged.rename(folder)
        if staged != target:
            shutil.rmtree(target)
            _sweep(spec.adapters)
        retain(spec.adapters, name, keep)
        return manifest


def made_by(adapters: Path, job: str) -> AdapterManifest | None:
    """What a job has published, wherever it is by now; None: nothing, or it was removed."""
    return next((one for one in (*read_adapters(adapters), *archived(adapters)) if one.job == job), None)


def free_name(adapters: Path, name: str) -> str:
    """`name`, or where an adapter of this name serves, the first of `name-2`, `name-3`, … that nobody has."""
    there = _read(adapters / name)
    if there is None or there.promotion is None:
        return name
    number = 2
    while (adapters / (free := f"{name[: 62 - len(str(number))]}-{number}")).exists():
        number += 1
    return free


def find(adapters: Path, reference: str) -> Path:
    """The folder of `NAME`, or of an older `NAME@VERSION`. Raises `RegistryError`."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise RegistryError(f"{reference!r} is no adapter's name; `groupqwen adapters list` shows them")
    live = adapters / found["name"]
    for folder in (live, adapters / ARCHIVE / reference):
        manifest = _read(folder)
        if manifest is not None and (found["version"] is None or manifest.version == reference):
            return folder
    raise RegistryError(f"there is no adapter {reference!r}; `groupqwen adapters list` shows those that there are")


def archived(adapters: Path, name: str | None = None) -> list[AdapterManifest]:
    """Older versions, of a name or of all, the newest first."""
    found = read_adapters(adapters / ARCHIVE)
    return sorted((one for one in found if name in (None, one.name)), key=lambda one: -one.created)


def retain(adapters: Path, name: str, keep: int) -> list[AdapterManifest]:
    """Remove all but the newest `keep` older versions of a name; those that went are told."""
    surplus = archived(adapters, name)[keep:]
    for manifest in surplus:
        _delete(adapters, adapters / ARCHIVE / manifest.version)
    return surplus


def remove(adapters: Path, reference: str) -> AdapterManifest:
    """Remove a version. Raises `RegistryError` for one that serves, or is not there."""
    with registry_lock(adapters):
        folder = find(adapters, reference)
        manifest = read_adapter(folder)
        if manifest.promotion is not None:
            raise RegistryError(
                f"{manifest.name} serves as {manifest.model}: `groupqwen adapters demote {manifest.name}` first"
            )
        _delete(adapters, folder)
        return manifest


def add_export(adapters: Path, reference: str, form: str, make: Callable[[Path, Path], Export]) -> Export:
    """List a further form of an adapter. One at a time: it takes much memory.

    `make` is given the adapter's folder, of which it only reads, and an empty one for what it makes. That goes
    into its place when it is whole, and what is listed is there and whole at any moment. Raises `RegistryError`,
    and what `make` raises.
    """
    folder = find(adapters, reference)
    before = read_adapter(folder)
    try:
        exporting = FileLock(adapters / _EXPORTING, timeout=0)
        exporting.acquire()
    except Timeout:
        raise RegistryError("another export runs: wait for its end") from None
    making = adapters / _MAKING / before.version
    try:
        with registry_lock(adapters):
            _clear_making(adapters)  # Of one that was killed.
            making.mkdir(parents=True, mode=0o700)
        made = make(folder, making)
        with registry_lock(adapters):
            manifest = read_adapter(folder)
            if manifest.version != before.version:
                raise RegistryError(f"a newer {manifest.name} has taken its place meanwhile: export that one")
            made = _take_in(folder, manifest, form, making, made)
    finally:
        try:
            with registry_lock(adapters):
                _clear_making(adapters)
        finally:
            exporting.release()
    return made


def _take_in(folder: Path, manifest: AdapterManifest, form: str, making: Path, made: Export) -> Export:
    """Move a form that is whole into the adapter's folder, beside an earlier one, and list it instead of that."""
    _drop_unlisted_forms(folder, manifest)
    path = folder / made.path
    if path.exists():
        path = path.with_name(f"{path.stem}.1{path.suffix}")
    (making / made.path).rename(path)
    made = made.model_copy(update={"path": path.name})
    listing = manifest.model_copy(update={"exports": {**manifest.exports, form: made}})
    write_adapter(folder, listing)
    _drop_unlisted_forms(folder, listing)
    return made


def _clear_making(adapters: Path) -> None:
    """Nobody exports, and the registry's lock is held: what an export has left goes, also what it had moved to its
    place already and not listed yet."""
    for making in sorted((adapters / _MAKING).glob("*")):
        for folder in (adapters / making.name.partition("@")[0], adapters / ARCHIVE / making.name):
            manifest = _read(folder)
            if manifest is not None and manifest.version == making.name:
                _drop_unlisted_forms(folder, manifest)
    shutil.rmtree(adapters / _MAKING, ignore_errors=True)


def _drop_unlisted_forms(folder: Path, manifest: AdapterManifest) -> None:
    listed = {export.path.partition("/")[0] for export in manifest.exports.values()}
    for path in folder.iterdir():
        if path.name not in listed and _A_FORM.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _read(folder: Path) -> AdapterManifest | None:
    try:
        return read_adapter(folder)
    except (OSError, ValidationError):
        return None


def _versioned(adapters: Path, parent: str) -> str:
    try:
        return read_adapter(find(adapters, parent)).version
    except RegistryError:
        return parent  # It has gone since; its name is all that is left of it.


def _beside(target: Path, spec: JobSpec) -> Path:
    """`target`, or where it lies on another file system, a copy of it from where a rename is enough."""
    if _is_beside(target, spec.adapters):
        return target
    staged = spec.adapters / _INCOMING / spec.id
    shutil.copytree(target, staged)
    return staged


def _is_beside(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _archive(adapters: Path, folder: Path, older: AdapterManifest | None) -> None:
    if older is None:
        # What cannot be read is nobody's: a manifest by a hand, or a disk that has lost something.
        raise RegistryError(f"{folder} is there and holds no readable {MANIFEST}: look at it, and move it away")
    place = adapters / ARCHIVE / older.version
    place.parent.mkdir(mode=0o700, exist_ok=True)
    folder.rename(place)


def _delete(adapters: Path, folder: Path) -> None:
    # First out of sight, in one step: a folder that is half deleted must not be listed.
    gone = adapters / REMOVED / f"{folder.name}-{time.time_ns()}"
    gone.parent.mkdir(mode=0o700, exist_ok=True)
    folder.rename(gone)
    _sweep(adapters)


def _sweep(adapters: Path) -> None:
    """What was on its way in or out goes: whoever was at it is at it no longer, as the lock is held."""
    for name in (_INCOMING, REMOVED):
        shutil.rmtree(adapters / name, ignore_errors=True)
    if (adapters / _MAKING).is_dir():
        # (What cannot be removed now is tried again: it must not keep a job from publishing.)
        with suppress(Timeout, OSError), FileLock(adapters / _EXPORTING, timeout=0):
            _clear_making(adapters)
