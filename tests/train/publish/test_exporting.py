"""From an adapter to its forms, each made and asked in processes of their own, and into the registry."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.adapters import Export, read_adapter, sha256_of
from configs.training import JobSpec, write_spec
from groupqwen.cli import app
from tests.train.publish.tiny import make_adapter
from train.publish import children
from train.publish.errors import ExportError
from train.publish.exporting import Base, export_adapter, key_of, make_form, make_gguf
from train.publish.probing import A_QUESTION, MOST_QUESTION, Reference, a_question
from train.publish.registry import publish
from train.publish.sizes import bytes_of

Asked = Callable[[Path, Path], Reference]


def call_here(function: str, given: dict[str, Any], *_: Any) -> dict[str, Any]:
    """In place of `children.call`, where that is not what is tested: in this process, which has loaded already all
    that a child would load first. What goes in and out is JSON, as there."""
    module, _, name = function.partition(":")
    said = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(given)))
    called: dict[str, Any] = json.loads(json.dumps(said))
    return called


class Said:
    """What an export says while it goes on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, kind: str, **data: Any) -> None:
        assert kind == "log"
        self.lines.append((data["level"], data["message"]))

    def of(self, level: str) -> list[str]:
        return [message for at, message in self.lines if at == level]


def dataset(root: Path, *questions: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}]})
        for q in questions
    )
    (root / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_a_job_s_adapter_is_exported_published_and_exported_again(
    models: dict[str, Path], ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    spec = JobSpec(
        id=f"ftjob-{1:024x}",
        name="helper",
        base="tiny",
        weights=models["llama"],
        base_gguf=ggufs["llama"],
        dataset=dataset(tmp_path / "data", "ab?"),
        adapters=home / "adapters",
        forms=("fp8",),
    )
    job = home / "training" / "jobs" / spec.id
    write_spec(job, spec)
    trained = make_adapter(tmp_path / "checkpoint", models["llama"])
    (trained / "optimizer.pt").write_text("not a part of it")
    said = Said()
    exports = export_adapter(spec, trained, job / "result", said)
    assert set(exports) == {"peft", "gguf"}
    assert said.of("error") == [
        "no fp8: llm-compressor is not installed: `groupqwen adapters export` brings it"
    ], "what cannot be made is not listed, and the reason is told"
    assert {one.name for one in (job / "result").iterdir()} == {"peft", "adapter.gguf"}
    assert {one.name for one in (job / "result" / "peft").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    for export in exports.values():
        file = job / "result" / export.path
        assert (export.bytes, export.sha256) == (bytes_of(file), sha256_of(file))
        assert export.question == "ab?"
        assert export.answer is not None
    assert exports["gguf"].answer == exports["peft"].answer, "an F32 base: the same tokens"

    publish(spec, job / "result", exports, {}, None)
    monkeypatch.setenv("GROUPQWEN_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(children, "call", call_here)
    form = ["--form", "merged-gguf", "--quantization", "q8_0"]
    done = CliRunner().invoke(app, ["adapters", "export", "helper", *form], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    made = read_adapter(spec.adapters / "helper").exports["merged-gguf-q8_0"]
    file = spec.adapters / "helper" / "merged-Q8_0.gguf"
    assert made.path == file.name
    assert made.sha256 == sha256_of(file)
    assert made.question == "ab?"
    assert made.sha256 in done.output
    left = {one.name for one in (spec.adapters / "helper").iterdir()}
    assert left == {"peft", "adapter.gguf", file.name, "adapter.json"}, "what was merged for it has gone"


def test_a_form_that_does_not_do_what_the_adapter_does_is_not_kept(
    models: dict[str, Path], ggufs: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter" / "peft", models["llama"], strength=2)
    reference = asked(models["llama"], adapter)
    base = Base("helper", models["llama"], ggufs["llama"], tmp_path)
    assert make_gguf(base, tmp_path / "adapter", reference).path == "adapter.gguf"
    # As if PEFT had changed all to the contrary.
    contrary = replace(reference, tuned=2 * reference.base - reference.tuned)
    with pytest.raises(ExportError, match="does not do what the adapter does"):
        make_gguf(base, tmp_path / "adapter", contrary)
    # A base that it was not trained on.
    with pytest.raises(ExportError, match="as an adapter of its base"):
        make_gguf(replace(base, gguf=ggufs["qwen3"]), tmp_path / "adapter", reference)
    # A file that is none.
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ExportError, match="cannot load it"):
        make_gguf(replace(base, gguf=broken), tmp_path / "adapter", reference)
    assert [one.name for one in (tmp_path / "adapter").iterdir()] == ["peft"]


def test_what_is_missing_is_told_before_anything_is_made(
    models: dict[str, Path], asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(tmp_path / "adapter" / "peft", models["qwen3"])
    reference = asked(models["qwen3"], adapter)
    base = Base("helper", models["qwen3"], None, tmp_path)
    (tmp_path / "adapter" / "merged").mkdir()
    with pytest.raises(ExportError, match="is not served by llama"):
        make_form(base, tmp_path / "adapter", reference, "merged-gguf", Said())
    (tmp_path / "adapter" / "merged").rmdir()
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ExportError, match="MiB of disk are free"):
        make_form(base, tmp_path / "adapter", reference, "merged", Said())
    assert [one.name for one in (tmp_path / "adapter").iterdir()] == ["peft"]


def test_an_adapter_that_was_not_trained_or_is_none_fails_the_job(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "call", call_here)
    spec = JobSpec(
        id=f"ftjob-{1:024x}",
        name="helper",
        base="tiny",
        weights=models["qwen2"],
        dataset=dataset(tmp_path / "data"),
        adapters=tmp_path / "adapters",
    )
    untrained = make_adapter(tmp_path / "untrained", models["qwen2"], strength=0)
    with pytest.raises(ExportError, match="changes nothing"):
        export_adapter(spec, untrained, tmp_path / "result", Said())
    with pytest.raises(ExportError, match=r"no adapter_config\.json and no adapter_model\.safetensors"):
        export_adapter(spec, tmp_path / "data", tmp_path / "result", Said())


def test_it_is_asked_what_it_was_trained_for(tmp_path: Path) -> None:
    assert a_question(tmp_path) == A_QUESTION
    data = dataset(tmp_path / "data", " ", "x" * (MOST_QUESTION + 1), " What is it? ")
    assert a_question(data) == "What is it?"
    (data / "validation.jsonl").write_text("no JSON\n")
    assert a_question(data) == "What is it?"
    (data / "validation.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "Held out?"}]}))
    assert a_question(data) == "Held out?"


def test_each_quantization_is_a_form_of_its_own() -> None:
    assert key_of("merged-gguf", "Q4_K_M") == "merged-gguf-q4_k_m"
    assert key_of("awq") == "awq"
    assert Export(path="x", bytes=0, sha256="").answer is None
