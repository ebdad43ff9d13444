"""An adapter begins to serve, and ceases to. What is on the disk afterwards is all there is to it: whoever serves
looks there. Reads and writes small files, which is a thread's work."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from configs.adapters import (
    LOCK_SECONDS,
    REMOVED,
    AdapterManifest,
    Promotion,
    RegistryBusy,
    read_adapter,
    read_adapters,
    registry_lock,
    touch,
    write_adapter,
)
from configs.training import ADAPTER_NAME
from deployments.contract import ChatError
from deployments.finetuning.states import told_when_full

NOT_EVALUATED = "it was not evaluated"


def find(adapters: Path, name: str) -> AdapterManifest:
    """The adapter of this name. Raises a 404 `ChatError`."""
    try:
        if re.fullmatch(ADAPTER_NAME, name) is None:
            raise FileNotFoundError
        return read_adapter(adapters / name)
    except FileNotFoundError:
        message = f"There is no adapter {name!r}; `groupqwen adapters list` shows those that there are."
        raise ChatError(message, status=404, kind="not_found_error", code="no_such_adapter") from None
    except (OSError, ValidationError) as error:
        raise refused(
            f"The manifest of {name!r} cannot be read: {type(error).__name__}.", "broken_adapter"
        ) from error


def objections(manifest: AdapterManifest) -> list[str]:
    """Why its gate does not let it through; nothing where it does."""
    if manifest.gate is None:
        return [NOT_EVALUATED]
    return [] if manifest.gate.passed else manifest.gate.reasons or ["its gate says no"]


def check_share(adapters: Path, manifest: AdapterManifest, share: float) -> None:
    """Raise a 409 `ChatError` where its base has not so much left to share."""
    others = {
        one.name: one.promotion.share
        for one in read_adapters(adapters)
        if one.base == manifest.base and one.name != manifest.name and one.promotion is not None
    }
    if sum(others.values()) + share > 1 + 1e-9:
        taken = ", ".join(f"{name} {taken:.0%}" for name, taken in others.items() if taken)
        raise refused(f"{manifest.base} has no {share:.0%} left to share: {taken}.", "share_taken")


def promote(adapters: Path, manifest: AdapterManifest, promotion: Promotion) -> AdapterManifest:
    """From the next request on it serves so. Raises a `ChatError` where other weights have taken its name, or
    others the share."""
    with _changing(adapters):
        now = find(adapters, manifest.name)
        if now.digest != manifest.digest:
            raise refused(f"Other weights have taken the name {manifest.name!r} meanwhile.", "adapter_changed")
        check_share(adapters, now, promotion.share)
        promoted = now.model_copy(update={"promotion": promotion})
        write_adapter(adapters / manifest.name, promoted)
        return promoted


def demote(adapters: Path, name: str) -> AdapterManifest:
    """From the next request on it serves nobody. Raises a 404 `ChatError`."""
    with _changing(adapters):
        idle = find(adapters, name).model_copy(update={"promotion": None})
        write_adapter(adapters / name, idle)
        return idle


def remove(adapters: Path, name: str) -> None:
    """Delete it with its exports. Raises a `ChatError`: 404, or 409 while it serves."""
    with _changing(adapters):
        if find(adapters, name).promotion is not None:
            raise refused(f"{name!r} is promoted: demote it first.", "adapter_promoted")
        # Out of the registry in one step, to where whoever publishes sweeps: half a folder would be in the way.
        gone = adapters / REMOVED / f"{name}-{time.time_ns()}"
        gone.parent.mkdir(mode=0o700, exist_ok=True)
        (adapters / name).rename(gone)
        touch(adapters)
        shutil.rmtree(gone.parent, ignore_errors=True)


@contextmanager
def _changing(adapters: Path) -> Iterator[None]:
    """Alone with the registry. Raises a 503 `ChatError` where others have it too long, a 507 where the disk is
    full."""
    try:
        with registry_lock(adapters, LOCK_SECONDS), told_when_full():
            yield
    except RegistryBusy as busy:
        raise ChatError(
            f"The adapters cannot be changed now: {busy}. Try again.",
            status=503,
            code="registry_busy",
            retry_after=LOCK_SECONDS,
        ) from busy


def refused(message: str, code: str) -> ChatError:
    """A 409: as things stand."""
    return ChatError(message, status=409, kind="invalid_request_error", code=code)
