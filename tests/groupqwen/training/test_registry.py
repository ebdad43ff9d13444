"""`groupqwen adapters list|show|diff|rm|export`, as a person runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from configs.adapters import AdapterManifest, Export, Gate, Promotion, read_adapter, write_adapter
from configs.training import JobSpec, Recipe, write_spec
from groupqwen.cli import app
from groupqwen.stack.problem import StartProblem
from groupqwen.training import registry
from train.data_hash import data_hash
from train.publish import exporting
from train.publish.errors import ExportError
from train.publish.exporting import Base
from train.publish.registry import ARCHIVE


@pytest.fixture()
def adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "220")
    return tmp_path / "adapters"


def add(adapters: Path, name: str = "helper", **told: object) -> AdapterManifest:
    manifest = AdapterManifest.model_validate(
        {
            "name": name,
            "base": "smollm2-135m",
            "created": 1_790_000_000.25,
            "data_hash": "abcdef0123456789" * 4,
            "recipe": Recipe(),
            "metrics": {"held_out_loss": 1.25, "exact": 0.875},
            "exports": {
                "peft": Export(path="peft", bytes=3 << 20, sha256="", question="[bold]Who?[/bold]", answer="Me.")
            },
            "gate": Gate(passed=True, reasons=["better than its base"]),
            **told,
        }
    )
    write_adapter(adapters / name, manifest)
    return manifest


def run(*arguments: str, said: str | None = None) -> Result:
    return CliRunner().invoke(app, ["adapters", *arguments], input=said)


def test_nothing_yet_is_said(adapters: Path) -> None:
    assert "There are no adapters yet" in run("list").output


def test_the_list_says_what_each_is(adapters: Path) -> None:
    add(adapters)
    refused = Gate(passed=False, reasons=["it forgets"])
    add(adapters, "other", gate=refused, recipe=Recipe(rank=16), promotion=Promotion(share=0.1, forced=True))
    older = add(adapters, "away", gate=None)
    (adapters / ARCHIVE).mkdir()
    (adapters / "away").rename(adapters / ARCHIVE / older.version)
    output = run("list").output
    for words in ("helper", "smollm2-135m", "abcdef01", "reference", "held_out_loss 1.25", "passed", "3.0 MiB"):
        assert words in output
    for words in ("sft r16 0.0002", "refused", "yes, 10% share, forced"):
        assert words in output
    assert "away" not in output
    assert older.version in run("list", "--all").output
    assert "not evaluated" in run("show", older.version).output


def test_one_is_shown_with_its_forms_and_its_report(adapters: Path) -> None:
    manifest = add(adapters, parents=("base@20260101T000000000Z",))
    output = run("show", "helper").output
    for words in (manifest.version, "ft:smollm2-135m:helper", "base@20260101T000000000Z", "exact", "0.875"):
        assert words in output
    assert "[bold]Who?[/bold]" in output, "a question is no markup"
    assert "report.html" not in output
    (adapters / "helper" / "report.html").touch()
    assert str(adapters / "helper" / "report.html") in run("show", "helper").output.replace("\n", "")


def test_two_are_compared(adapters: Path) -> None:
    add(adapters)
    add(adapters, "other", metrics={"held_out_loss": 1.125})
    output = run("diff", "helper", "other").output
    assert "metrics.held_out_loss" in output
    assert "1.125" in output
    assert "recipe" not in output
    assert "nothing but their names" in run("diff", "helper", "helper").output


def test_one_is_removed_after_asking(adapters: Path) -> None:
    add(adapters)
    assert run("rm", "helper", said="n\n").exit_code == 1
    assert (adapters / "helper").is_dir()
    done = run("rm", "helper", said="y\n")
    assert done.exit_code == 0
    assert "(3.0 MiB) for good?" in done.output
    assert not (adapters / "helper").exists()


def test_one_that_serves_is_not_removed(adapters: Path) -> None:
    add(adapters, promotion=Promotion())
    done = run("rm", "helper", "--yes")
    assert isinstance(done.exception, StartProblem)
    assert "adapters demote helper" in str(done.exception)
    assert read_adapter(adapters / "helper").promotion is not None


@pytest.mark.parametrize(
    "command", [("show",), ("rm", "--yes"), ("diff", "helper"), ("export", "--form", "merged")]
)
@pytest.mark.parametrize("name", ["nobody", "../helper", "helper@1"])
def test_one_that_is_not_there_is_said(command: tuple[str, ...], name: str, adapters: Path) -> None:
    add(adapters)
    done = run(*command, name)
    assert isinstance(done.exception, StartProblem)
    assert "groupqwen adapters list" in str(done.exception)


def test_few_bits_are_calibrated_by_what_was_learned(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tools", lambda _: adapters)
    home = adapters.parent
    data, job = home / "data", home / "training" / "jobs" / f"ftjob-{1:024x}"
    data.mkdir()
    (data / "train.jsonl").write_text("as it was\n")
    spec = JobSpec(
        id=job.name, name="helper", base="tiny", weights=home / "weights", dataset=data, adapters=adapters
    )
    write_spec(job, spec)
    add(adapters, job=job.name, data_hash=data_hash(data))
    given: list[Path] = []

    def export(base: Base, folder: Path, manifest: AdapterManifest, *_: object) -> Export:
        given.append(base.dataset)
        raise ExportError("enough was seen")

    monkeypatch.setattr(exporting, "export_form", export)
    run("export", "helper", "--form", "awq")
    assert given == [data]
    shutil.copytree(data, job / "dataset")
    (data / "train.jsonl").write_text("curated anew\n")
    run("export", "helper", "--form", "gptq")
    assert given == [data, job / "dataset"], "the job's own copy"
    shutil.rmtree(job / "dataset")
    refused = str(run("export", "helper", "--form", "awq").exception)
    assert f"looked for in: {job / 'dataset'}, {data}" in refused
    run("export", "helper", "--form", "fp8")
    assert len(given) == 3, "which needs none"
    add(adapters, "stray")
    assert "looked for in: nothing" in str(run("export", "stray", "--form", "awq").exception)


def test_an_export_that_makes_no_sense_is_refused(adapters: Path) -> None:
    add(adapters)
    assert "merged-gguf" in run("export", "helper", "--form", "awq", "--quantization", "Q8_0").output
    assert "none of F32, F16" in run("export", "helper", "--form", "merged-gguf", "--quantization", "Q9").output
    add(adapters, "stray", base="not-in-the-catalog")
    assert "say --weights" in str(run("export", "stray", "--form", "merged").exception)
    add(adapters, "bare", exports={})
    assert "has no peft form" in str(run("export", "bare", "--form", "merged").exception)
