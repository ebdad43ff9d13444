"""Where an adapter's weights lie, and that they are those that are meant. Pure, but for reading."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from configs.adapters import read_adapter, sha256_of
from configs.training import ADAPTER_NAME
from deployments.contract import Adapter, ChatError, adapter_broken, not_ready


def weights_of(adapters: Path, wanted: Adapter, base: str, form: str) -> tuple[Path, int]:
    """The file or folder of this form (gguf, peft), and its bytes. Reads it all, which is a thread's work. Raises
    a `ChatError` that names what is wrong."""
    if re.fullmatch(ADAPTER_NAME, wanted.name) is None:
        raise adapter_broken(wanted.model, f"{wanted.name!r} is no adapter's name")
    folder = adapters / wanted.name
    try:
        manifest = read_adapter(folder)
    except FileNotFoundError:
        raise adapter_broken(wanted.model, "this machine has no such adapter") from None
    except (OSError, ValidationError) as error:
        raise adapter_broken(wanted.model, f"its manifest cannot be read ({type(error).__name__})") from error
    if manifest.base != base or manifest.model != wanted.model:
        raise adapter_broken(wanted.model, f"it was made for {manifest.base}, not for {base}")
    if manifest.digest != wanted.digest:
        raise _gone(wanted, "other weights have taken its name meanwhile")
    if manifest.promotion is None and not wanted.trial:
        raise _gone(wanted, "it was demoted meanwhile")
    export = manifest.exports.get(form)
    if export is None:
        there = ", ".join(manifest.exports) or "nothing"
        raise adapter_broken(wanted.model, f"{base} needs it as {form}, and it was exported as {there}")
    path = (folder / export.path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise adapter_broken(wanted.model, f"its {form} lies outside of its folder")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise adapter_broken(wanted.model, f"{export.path} cannot be read ({error.strerror})") from error
    if found != export.sha256:
        raise adapter_broken(wanted.model, f"{export.path} is not what was published: its checksum differs")
    return path, export.bytes


def _gone(wanted: Adapter, reason: str) -> ChatError:
    """Nothing is broken, and nobody's trust in it is lost."""
    return not_ready(wanted.model, reason)
