"""The forms of an adapter: made, loaded, asked, and only then listed.

| form | what | who serves it |
| --- | --- | --- |
| `peft` | the adapter as it was trained | vLLM, beside its base |
| `gguf` | the same as a GGUF file | llama.cpp, beside its base |
| `merged` | base and adapter as one, in the base's precision | vLLM, by itself |
| `merged-gguf` | the same as a GGUF file, `merged-gguf-q4_k_m` and so on | llama.cpp, by itself |
| `awq`, `gptq`, `fp8` | the same in few bits | vLLM, by itself |

The first two are made of every adapter; the others take as much disk as a model, and are made when asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from configs.adapters import AdapterManifest, Export, sha256_of
from configs.training import Form, JobSpec
from train.publish import children, quantizing
from train.publish.errors import ExportError
from train.publish.gguf_adapter import write_adapter_gguf
from train.publish.gguf_model import QUANTIZATIONS
from train.publish.lora import FILES
from train.publish.probing import Answer, Reference, a_question, reference, refuse_unless_exact, refuse_unless_near
from train.publish.sizes import bytes_of

Say = Callable[..., object]

PEFT, GGUF = "peft", "gguf"
QUANTIZATION = "Q8_0"
"""Of a merged GGUF model, where nothing else is said."""
_EXACT = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Base:
    """What a form is made of, beside the adapter."""

    name: str
    """What a GGUF model says that it is called: the adapter's."""
    weights: Path
    gguf: Path | None
    dataset: Path
    """By which few-bit forms are calibrated."""
    threads: int = 1
    tools: Path | None = None
    """llm-compressor's folder (`quantizing.install`); None: not there."""


def export_adapter(
    spec: JobSpec, peft: Path, target: Path, say: Say, tools: Path | None = None
) -> dict[str, Export]:
    """Fill the folder `target` with the adapter in `peft`, in all forms that the job asks for.

    A form that cannot be made, or does not answer as it should, is not listed, and the reason is told. Raises
    `ExportError` where the adapter itself does not.
    """
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in target.glob(".merged-*"):  # By a run that was killed.
        shutil.rmtree(left)
    _copy_adapter(peft, target / PEFT)
    base = Base(spec.name, spec.weights, spec.base_gguf, spec.dataset, spec.threads, tools)
    exports: dict[str, Export] = {}
    with reference(spec.weights, target / PEFT, a_question(spec.dataset)) as asked:
        exports[PEFT] = _listed(target, target / PEFT, asked, asked.answer)
        say("log", level="info", message=f"the adapter answers {asked.answer!r} to {asked.question!r}")
        makers: dict[str, Callable[[], Export]] = {
            key_of(form): partial(make_form, base, target, asked, form, say) for form in spec.forms
        }
        if spec.base_gguf is not None:
            makers = {GGUF: partial(make_gguf, base, target, asked), **makers}
        for key, make in makers.items():
            try:
                exports[key] = make()
            except (ExportError, OSError) as error:
                say("log", level="error", message=f"no {key}: {error}")
            else:
                say("log", level="info", message=f"{key}: {exports[key].bytes >> 20} MiB, answers as it should")
    return exports


def export_form(
    base: Base,
    folder: Path,
    manifest: AdapterManifest,
    form: Form,
    say: Say,
    quantization: str = QUANTIZATION,
    into: Path | None = None,
) -> Export:
    """A further form of the adapter in `folder`, put into the folder `into`. Raises `ExportError`, `OSError`."""
    listed = manifest.exports.get(PEFT)
    if listed is None:
        raise ExportError(f"{manifest.name} has no {PEFT} form, of which all others are made")
    with reference(base.weights, folder / listed.path, listed.question or a_question(base.dataset)) as asked:
        return make_form(base, folder, asked, form, say, quantization, into)


def key_of(form: Form, quantization: str = QUANTIZATION) -> str:
    """Under which `AdapterManifest.exports` lists it."""
    return f"{form}-{quantization.lower()}" if form == "merged-gguf" else form


def make_gguf(base: Base, folder: Path, asked: Reference) -> Export:
    """The adapter for llama.cpp, asked on the base that it will be served with."""
    assert base.gguf is not None
    with _made(folder / "adapter.gguf") as path:
        write_adapter_gguf(folder / PEFT, base.weights, path)
        said = asked.in_llama(base.gguf, path, base.threads)
        refuse_unless_exact(said)
    return _listed(folder, path, asked, said.text)


def make_form(
    base: Base,
    folder: Path,
    asked: Reference,
    form: Form,
    say: Say,
    quantization: str = QUANTIZATION,
    into: Path | None = None,
) -> Export:
    """Base and adapter as one, put into the folder `into`; unset: beside the adapter. Raises `ExportError`."""
    into = into or folder
    path = into / (f"merged-{quantization}.gguf" if form == "merged-gguf" else form)
    with _made(path):
        if form == "merged":
            say("log", level="info", message="merging the adapter into its base")
            said = _merge(base, folder, asked, path)
        else:
            with _merged(base, folder, into, say) as merged:
                if form == "merged-gguf":
                    said = _gguf(base, asked, merged, path, quantization, say)
                else:
                    said = _few_bits(base, asked, merged, path, form, say)
    return _listed(into, path, asked, said.text)


def _merge(base: Base, folder: Path, asked: Reference, path: Path) -> Answer:
    _call_merge(base, folder, path)
    said = asked.in_transformers(path)
    refuse_unless_exact(said)
    return said


def _gguf(base: Base, asked: Reference, merged: Path, path: Path, quantization: str, say: Say) -> Answer:
    if base.gguf is None:
        raise ExportError("its base is not served by llama.cpp: there is no GGUF file whose vocabulary to take")
    if quantization not in QUANTIZATIONS:
        raise ExportError(f"{quantization} is none of {', '.join(QUANTIZATIONS)}")
    say("log", level="info", message=f"writing {path.name}")
    given = {"merged": str(merged), "base_gguf": str(base.gguf), "target": str(path), "quantization": quantization}
    children.call(
        "train.publish.gguf_model:write_model_gguf",
        {**given, "name": base.name, "threads": base.threads},
        children.limits_for(bytes_of(merged)),
    )
    said = asked.in_llama(path, None, base.threads)
    (refuse_unless_exact if quantization in _EXACT else refuse_unless_near)(said)
    return said


def _few_bits(base: Base, asked: Reference, merged: Path, path: Path, form: str, say: Say) -> Answer:
    if base.tools is None or not quantizing.is_installed(base.tools):
        raise ExportError("llm-compressor is not installed: `groupqwen adapters export` brings it")
    say("log", level="info", message=f"quantizing to {form}, by llm-compressor")
    scheme = cast(quantizing.Scheme, form)
    given = {"merged": str(merged), "target": str(path), "scheme": scheme, "dataset": str(base.dataset)}
    limits = children.limits_for(4 * bytes_of(merged))  # It is run on samples, many times.
    children.call("train.publish.quantizing:quantize", {**given, "threads": base.threads}, limits, (base.tools,))
    said = asked.in_transformers(path)
    refuse_unless_near(said)
    return said


@contextmanager
def _merged(base: Base, folder: Path, into: Path, say: Say) -> Iterator[Path]:
    """The merged model: the one that is there, or one for now, in the folder `into`."""
    if there := [path for path in folder.glob("merged*") if path.is_dir()]:
        yield there[0]
        return
    say("log", level="info", message="merging the adapter into its base")
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=into) as scratch:
        path = Path(scratch) / "model"
        _call_merge(base, folder, path)
        yield path


def _call_merge(base: Base, folder: Path, path: Path) -> None:
    size = bytes_of(base.weights)
    if (free := shutil.disk_usage(path.parent).free) < 2 * size:
        raise ExportError(f"only {free >> 20} MiB of disk are free; merging takes up to {2 * size >> 20}")
    given = {"weights": str(base.weights), "peft": str(folder / PEFT), "target": str(path)}
    children.call("train.publish.merging:merge", given, children.limits_for(size))


@contextmanager
def _made(path: Path) -> Iterator[Path]:
    """What did not become good does not stay."""
    try:
        yield path
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        raise


def _listed(folder: Path, path: Path, asked: Reference, answer: str) -> Export:
    return Export(
        path=path.relative_to(folder).as_posix(),
        bytes=bytes_of(path),
        sha256=sha256_of(path),
        question=asked.question,
        answer=answer,
    )


def _copy_adapter(peft: Path, target: Path) -> None:
    """The adapter alone: no optimizer, no tokenizer, whatever else lies there."""
    missing = [name for name in FILES if not (peft / name).is_file()]
    if missing:
        raise ExportError(f"{peft} holds no adapter of PEFT: no {' and no '.join(missing)}")
    if peft.resolve() == target.resolve():
        return
    staged = target.with_name(f".{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    for name in FILES:
        shutil.copy2(peft / name, staged / name)
    shutil.rmtree(target, ignore_errors=True)
    staged.replace(target)
