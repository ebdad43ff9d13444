"""The registry of adapters: a folder for each in `Home.adapters`, with its manifest `adapter.json`.

Who trains writes it, who serves reads it; nobody keeps another list. Whoever changes what is in it touches the
folder of them all: that is how those who serve see that something has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.training import AdapterName, Recipe

logger = logging.getLogger("ray.serve")

MANIFEST = "adapter.json"
REMOVED = ".removed"
"""In the folder of them all: what is being deleted."""
PREFIX = "ft:"
SERVED = ("gguf", "peft")
"""The exports that are attached to a base that runs: by llama.cpp, by vLLM."""

LOCK_SECONDS = 10.0
"""So long who serves waits for others to have changed the registry; beyond: 503. Who trains has time."""


class RegistryBusy(TimeoutError):
    """Others are changing the registry."""


class Export(BaseModel):
    """One form of an adapter, or of its base with it."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="A file or folder, within the adapter's folder.")
    bytes: int = Field(ge=0)
    sha256: str = Field(description="Of the file; of a folder: of its files' names and hashes.")
    question: str = Field("", description="What it was asked after it was loaded.")
    answer: str | None = Field(None, description="What it said; null: it was not tried.")


class Gate(BaseModel):
    """Whether it may be promoted, and if not, why."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    reasons: list[str] = Field([], description="Why not; of one that passed, what it was held against.")


class Promotion(BaseModel):
    """How it serves."""

    model_config = ConfigDict(extra="forbid")

    at: float = Field(default_factory=time.time, description="Unix time, seconds.")
    share: float = Field(0.0, ge=0, le=1, description="Of its base's requests that it answers instead.")
    shadow: float = Field(
        0.0, ge=0, le=1, description="Of its base's requests, those that it is asked too, unheard."
    )
    forced: bool = Field(False, description="Promoted although the gate refused it.")


class AdapterManifest(BaseModel):
    """What is known of an adapter."""

    model_config = ConfigDict(extra="forbid")

    name: AdapterName
    base: str = Field(description="A variant of the catalog.")
    created: float = Field(description="Unix time, seconds.")
    job: str | None = Field(None, description="Who made it.")
    data_hash: str = Field(description="SHA-256 of the dataset.")
    recipe: Recipe
    seed: int = 42
    parents: tuple[str, ...] = Field((), description="The adapter that it went on from.")
    metrics: dict[str, float] = Field({}, description="What was measured, by name.")
    exports: dict[str, Export] = Field({}, description="By form: peft, gguf, merged, merged-gguf, awq, fp8, …")
    gate: Gate | None = Field(None, description="Null: it was not evaluated.")
    promotion: Promotion | None = Field(None, description="Null: it does not serve.")

    @property
    def model(self) -> str:
        """The name by which it is asked."""
        return f"{PREFIX}{self.base}:{self.name}"

    @property
    def version(self) -> str:
        """`NAME@VERSION`, by when it was made: stays the same when a newer one takes the name."""
        seconds, thousandths = divmod(round(self.created * 1000), 1000)
        return f"{self.name}@{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}{thousandths:03d}Z"

    @property
    def digest(self) -> str:
        """Of its weights, as they are served: one that is trained anew under the same name has another."""
        made = [self.created, *(self.exports[form].sha256 for form in SERVED if form in self.exports)]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]

    @property
    def key(self) -> str:
        """Of these very weights, among all."""
        return f"{self.model}@{self.digest}"


def base_of(model: str) -> str:
    """Which variant answers: of an adapter's model name its base, else the name itself."""
    return model.removeprefix(PREFIX).rpartition(":")[0] if model.startswith(PREFIX) else model


def may_ask(variants: Container[str] | None, model: str) -> bool:
    """Whether a key that may use these (None: all) may ask this variant or adapter: who may ask a base may ask its
    adapters, and an adapter can be allowed alone."""
    return variants is None or model in variants or base_of(model) in variants


def sha256_of(path: Path) -> str:
    """Of a file; of a folder: of its files' hashes and names, as `sha256sum` writes them, by name. Raises
    `OSError`."""
    if path.is_dir():
        names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
        lines = (f"{sha256_of(path / name)}  {name}\n" for name in names)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def touch(adapters: Path) -> None:
    """Something in the registry has changed. Raises `OSError`."""
    now = time.time_ns()  # (The file system's own clock ticks every few milliseconds only.)
    os.utime(adapters, ns=(now, now))


def read_adapter(folder: Path) -> AdapterManifest:
    """The manifest in an adapter's folder. Raises `OSError`, or pydantic's `ValidationError`."""
    return AdapterManifest.model_validate_json((folder / MANIFEST).read_text())


def read_adapters(adapters: Path) -> Iterator[AdapterManifest]:
    """All of a registry, by name. One that cannot be read is told in the log and left out."""
    for manifest in sorted(adapters.glob(f"*/{MANIFEST}")):
        try:
            yield read_adapter(manifest.parent)
        except (OSError, ValidationError) as error:
            logger.warning("the adapter in %s cannot be read: %s", manifest.parent.name, error)


def write_adapter(folder: Path, manifest: AdapterManifest) -> None:
    """Write the manifest, in one step. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = folder / f"{MANIFEST}.new"
    staged.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
    # (Before it as well: who is killed after the next line has at least told that something changes.)
    touch(folder.parent)
    staged.replace(folder / MANIFEST)
    touch(folder.parent)


@contextmanager
def registry_lock(adapters: Path, seconds: float | None = None) -> Iterator[None]:
    """Held by whoever changes a manifest or moves a folder, from reading to writing. (Readers need none.) Raises
    `RegistryBusy` where others have it for so long; None: it is waited for."""
    adapters.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(adapters / ".lock")
    try:
        lock.acquire(timeout=-1 if seconds is None else seconds)
    except Timeout:
        raise RegistryBusy(f"others have been changing the registry for {seconds:g} s") from None
    try:
        yield
    finally:
        lock.release()
