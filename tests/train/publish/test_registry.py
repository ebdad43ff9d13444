"""Publishing, archiving and removing: nothing is lost, whatever is killed when, and what serves is never moved."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.adapters import (
    AdapterManifest,
    Export,
    Gate,
    Promotion,
    read_adapter,
    read_adapters,
    sha256_of,
    write_adapter,
)
from configs.training import JobSpec, Recipe
from train.data_hash import data_hash
from train.publish import registry
from train.publish.differences import differences
from train.publish.errors import RegistryError
from train.publish.registry import archived, find, free_name, publish, remove

GATE = Gate(passed=True, reasons=["better than its base"])


class Job:
    """What a job is when its adapter is about to be published."""

    def __init__(self, root: Path, number: int, name: str = "helper", parents: tuple[str, ...] = ()) -> None:
        dataset = root / "dataset"
        dataset.mkdir(exist_ok=True)
        (dataset / "train.jsonl").write_text('{"messages": []}\n')
        self.spec = JobSpec(
            id=f"ftjob-{number:024x}",
            name=name,
            base="smollm2-135m",
            weights=root / "weights",
            dataset=dataset,
            parents=parents,
            adapters=root / "adapters",
        )
        self.target = root / "jobs" / self.spec.id / "result"
        (self.target / "peft").mkdir(parents=True)
        (self.target / "peft" / "adapter_model.safetensors").write_text(f"weights of {number}")
        self.exports = {"peft": Export(path="peft", bytes=1, sha256=sha256_of(self.target / "peft"))}

    def publish(self, keep: int = 3) -> AdapterManifest:
        return publish(self.spec, self.target, self.exports, {"loss": 0.5}, GATE, keep)


def promote(adapters: Path, name: str) -> None:
    manifest = read_adapter(adapters / name)
    write_adapter(adapters / name, manifest.model_copy(update={"promotion": Promotion()}))


def whole(folder: Path) -> bool:
    """Whether an adapter's folder holds what its manifest says."""
    manifest = read_adapter(folder)
    return all(sha256_of(folder / one.path) == one.sha256 for one in manifest.exports.values())


def test_an_adapter_is_published_with_all_that_is_known(tmp_path: Path) -> None:
    job = Job(tmp_path, 1)
    manifest = job.publish()
    assert read_adapter(job.spec.adapters / "helper") == manifest
    assert manifest.model == "ft:smollm2-135m:helper"
    assert manifest.job == job.spec.id
    assert manifest.data_hash == data_hash(job.spec.dataset)
    assert manifest.metrics == {"loss": 0.5}
    assert manifest.gate == GATE
    assert manifest.promotion is None
    assert whole(job.spec.adapters / "helper")
    assert not job.target.exists()


def test_a_job_publishes_once(tmp_path: Path) -> None:
    job = Job(tmp_path, 1)
    first = job.publish()
    assert job.publish() == first
    Job(tmp_path, 2).publish()
    assert job.publish() == first, "also from the archive"
    assert read_adapter(job.spec.adapters / "helper").job == f"ftjob-{2:024x}"
    remove(job.spec.adapters, first.version)
    with pytest.raises(RegistryError, match="no adapter was made by"):
        job.publish()


def test_older_versions_go_to_the_archive_and_only_some_stay(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    made = [Job(tmp_path, number).publish(keep=2) for number in range(1, 6)]
    assert [one.job for one in read_adapters(adapters)] == [made[4].job]
    assert [one.job for one in archived(adapters, "helper")] == [made[3].job, made[2].job]
    assert whole(find(adapters, made[2].version))
    assert find(adapters, made[4].version) == find(adapters, "helper") == adapters / "helper"
    with pytest.raises(RegistryError, match="there is no adapter"):
        find(adapters, made[0].version)
    assert {one.name for one in adapters.iterdir()} == {"helper", ".archive", ".lock"}


def test_what_serves_is_never_moved(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    first = Job(tmp_path, 1).publish(keep=0)
    promote(adapters, "helper")
    second, third = Job(tmp_path, 2).publish(keep=0), Job(tmp_path, 3).publish(keep=0)
    assert (second.name, third.name) == ("helper-2", "helper-3")
    assert read_adapter(adapters / "helper").job == first.job
    assert third.model == "ft:smollm2-135m:helper-3"
    with pytest.raises(RegistryError, match="adapters demote helper"):
        remove(adapters, "helper")
    assert whole(adapters / "helper")
    assert remove(adapters, "helper-2").job == second.job
    assert free_name(adapters, "helper") == "helper-2"
    assert free_name(adapters, "x" * 63) == "x" * 63


def test_parents_are_versions_and_stay_what_they_were(tmp_path: Path) -> None:
    first = Job(tmp_path, 1).publish()
    second = Job(tmp_path, 2, parents=("helper",)).publish()
    third = Job(tmp_path, 3, "other", parents=("helper", "long-gone")).publish()
    assert second.parents == (first.version,)
    assert third.parents == (second.version, "long-gone")
    assert read_adapter(find(tmp_path / "adapters", second.parents[0])) == first


@pytest.mark.parametrize("folder", ["helper", "helper/sub"])
def test_what_is_no_adapter_is_not_swept_away(folder: str, tmp_path: Path) -> None:
    job = Job(tmp_path, 1)
    (job.spec.adapters / folder).mkdir(parents=True)
    with pytest.raises(RegistryError, match=r"no readable adapter\.json"):
        job.publish()
    assert job.target.is_dir()
    assert (job.spec.adapters / folder).is_dir()


def killed_at(step: int, do: Callable[[], object]) -> bool:
    """Run `do` in a process that is killed before its `step`th change of the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(change: Callable[..., object]) -> Callable[..., object]:
            def counting(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **options)

            return counting

        for name in ("rename", "replace", "mkdir", "write_text"):
            setattr(Path, name, counted(getattr(Path, name)))
        os.rmdir = counted(os.rmdir)  # type: ignore[assignment]
        os.unlink = counted(os.unlink)  # type: ignore[assignment]
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_any_step_it_publishes_all_the_same(tmp_path: Path) -> None:
    steps = 0
    while True:
        steps += 1
        root = tmp_path / str(steps)
        root.mkdir()
        adapters = root / "adapters"
        older = [Job(root, number).publish() for number in (1, 2)]
        job = Job(root, 3, parents=("helper",))
        was_killed = killed_at(steps, lambda: job.publish(keep=1))  # noqa: B023 - called at once
        # Whatever is there is whole, and nothing that was to stay has gone.
        there = [*read_adapters(adapters), *archived(adapters)]
        assert older[1].job in {one.job for one in there}
        assert all(whole(find(adapters, one.version)) for one in there)
        manifest = job.publish(keep=1)
        assert manifest.name == "helper"
        assert manifest.parents == (older[1].version,)
        assert [one.job for one in read_adapters(adapters)] == [job.spec.id]
        assert [one.job for one in archived(adapters)][:1] == [older[1].job]
        assert not job.target.exists()
        if not was_killed:
            break
    assert steps > 6, "it has some steps"


def test_killed_at_any_step_a_removed_one_is_whole_or_gone(tmp_path: Path) -> None:
    steps = 0
    while True:
        steps += 1
        root = tmp_path / str(steps)
        root.mkdir()
        job = Job(root, 1)
        job.publish()
        was_killed = killed_at(steps, lambda: remove(job.spec.adapters, "helper"))  # noqa: B023
        left = list(read_adapters(job.spec.adapters))
        assert all(whole(job.spec.adapters / one.name) for one in left)
        if left:
            remove(job.spec.adapters, "helper")
        else:
            Job(root, 2, "other").publish()
        assert not (job.spec.adapters / ".removed").exists(), "what was half deleted is deleted"
        if not was_killed:
            break
    assert steps > 3


def test_from_another_file_system_it_is_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        monkeypatch.setattr(registry, "_is_beside", lambda one, other: False)
        away = tmp_path / "away"
    else:
        away = shared / f"groupqwen-test-{os.getpid()}"
    try:
        job = Job(tmp_path, 1)
        away.parent.mkdir(exist_ok=True)
        shutil.move(job.target, away)
        job.target = away
        manifest = job.publish()
        assert whole(job.spec.adapters / "helper")
        assert not away.exists()
        assert job.publish() == manifest
        assert {one.name for one in job.spec.adapters.iterdir()} == {"helper", ".lock"}
    finally:
        shutil.rmtree(away, ignore_errors=True)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc",
        ".archive",
        ".",
        "..",
        "",
        "a/b",
        "a\\b",
        "A",
        "a@../..",
        "a@20260101T000000000Z/..",
        "a\n",
    ],
)
def test_no_name_leads_out_of_the_registry(name: str, tmp_path: Path) -> None:
    Job(tmp_path, 1).publish()
    for function in (find, remove):
        with pytest.raises(RegistryError, match=r"is no adapter's name|there is no adapter"):
            function(tmp_path / "adapters", name)


@given(st.text(max_size=80))
def test_whatever_is_asked_for_is_found_in_the_registry_or_not_at_all(name: str) -> None:
    adapters = Path("/nowhere/adapters")
    with pytest.raises(RegistryError):
        find(adapters, name)


def test_a_copy_that_was_broken_off_is_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_is_beside", lambda one, other: False)
    job = Job(tmp_path, 1)

    class Full(Exception):
        pass

    def full(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        shutil.copy(source / "adapter.json", target)
        raise Full

    with monkeypatch.context() as patched, pytest.raises(Full):
        patched.setattr(shutil, "copytree", full)
        job.publish()
    assert list(read_adapters(job.spec.adapters)) == []
    assert whole(job.spec.adapters / job.publish().name)
    assert {one.name for one in job.spec.adapters.iterdir()} == {"helper", ".lock"}


def test_a_form_is_added_to_the_version_that_it_was_made_of(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    Job(tmp_path, 1).publish()
    made = registry.add_export(adapters, "helper", "merged", a_form("merged"))
    assert read_adapter(adapters / "helper").exports["merged"] == made
    assert {one.name for one in (adapters / "helper").iterdir()} == {"adapter.json", "peft", "merged"}

    def overtaken(folder: Path, into: Path) -> Export:
        with pytest.raises(RegistryError, match="another export runs"):
            registry.add_export(adapters, "helper", "awq", a_form("awq"))
        Job(tmp_path, 2).publish()
        return a_form("fp8")(folder, into)

    with pytest.raises(RegistryError, match="a newer helper"):
        registry.add_export(adapters, "helper", "fp8", overtaken)
    assert set(read_adapter(adapters / "helper").exports) == {"peft"}
    registry.add_export(adapters, "helper", "fp8", a_form("fp8"))
    assert set(read_adapter(adapters / "helper").exports) == {"peft", "fp8"}
    assert {one.name for one in adapters.iterdir()} == {"helper", ".archive", ".lock", ".exporting"}


def a_form(name: str, content: str = "weights") -> Callable[[Path, Path], Export]:
    """What makes a form in many steps: a folder, or of a name that ends so a GGUF file."""

    def make(folder: Path, into: Path) -> Export:
        assert (folder / "peft").is_dir() and not list(into.iterdir())
        (into / ".merged-now").mkdir()
        if name.endswith(".gguf"):
            (into / name).write_text(content)
        else:
            (into / name).mkdir()
            (into / name / "model.safetensors").write_text(content)
        (into / ".merged-now").rmdir()
        return Export(path=name, bytes=1, sha256=sha256_of(into / name))

    return make


@pytest.mark.parametrize("name", ["merged", "merged-Q8_0.gguf"])
@pytest.mark.parametrize("is_there", [False, True])
def test_killed_at_any_step_what_is_listed_is_whole_and_nothing_else_is_left(
    tmp_path: Path, name: str, *, is_there: bool
) -> None:
    steps = 0
    while True:
        steps += 1
        adapters = tmp_path / str(steps) / "adapters"
        adapters.parent.mkdir()
        Job(adapters.parent, 1).publish()
        (adapters / "helper" / "report.html").touch()
        registry.add_export(adapters, "helper", "fp8", a_form("fp8"))
        if is_there:
            registry.add_export(adapters, "helper", "merged", a_form(name))
        export = lambda: registry.add_export(adapters, "helper", "merged", a_form(name, "newer"))  # noqa: B023, E731
        was_killed = killed_at(steps, export)
        manifest = read_adapter(adapters / "helper")
        assert whole(adapters / "helper")
        assert {"peft", "fp8", *(["merged"] if is_there else [])} <= set(manifest.exports), "one was lost"
        # Whoever changes something next finds what was left.
        Job(adapters.parent, 2, "other").publish()
        manifest = read_adapter(adapters / "helper")
        known = {"adapter.json", "report.html", *(one.path for one in manifest.exports.values())}
        assert {one.name for one in (adapters / "helper").iterdir()} - {"adapter.json.new"} == known
        assert {one.name for one in adapters.iterdir()} == {"helper", "other", ".lock", ".exporting"}
        made = export()
        assert made.sha256 == sha256_of(adapters / "helper" / made.path)
        assert read_adapter(adapters / "helper").exports["merged"] == made
        assert whole(adapters / "helper")
        if not was_killed:
            break
    assert steps > 8, "it has some steps"


def test_hashes_are_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "deep" / "b").write_text("2")
    before = sha256_of(folder)
    assert sha256_of(folder / "a") == sha256_of(folder / "a")
    shutil.copytree(folder, tmp_path / "copy")
    assert sha256_of(tmp_path / "copy") == before
    (folder / "deep" / "b").rename(folder / "b")
    assert sha256_of(folder) != before
    (folder / "b").rename(folder / "deep" / "b")
    assert sha256_of(folder) == before
    (folder / "a").write_text("3")
    assert sha256_of(folder) != before


def test_differences_are_of_what_an_adapter_is(tmp_path: Path) -> None:
    first, second = Job(tmp_path, 1).publish(), Job(tmp_path, 2).publish()
    assert differences(first, second) == []
    changed = second.model_copy(
        update={
            "recipe": Recipe(rank=16, targets=("q_proj",)),
            "metrics": {"loss": 0.25, "exact": 1.0},
            "gate": Gate(passed=False, reasons=["it forgets", "it repeats"]),
            "exports": {**second.exports, "gguf": Export(path="adapter.gguf", bytes=7, sha256="", answer="Yes.")},
        }
    )
    told = {one.field: (one.left, one.right) for one in differences(first, changed)}
    assert told == {
        "recipe.rank": ("128", "16"),
        "recipe.targets": ("q_proj, k_proj, v_proj, o_proj", "q_proj"),
        "metrics.loss": ("0.5", "0.25"),
        "metrics.exact": ("", "1"),
        "exports.gguf.bytes": ("", "7"),
        "exports.gguf.answer": ("", "Yes."),
        "gate.passed": ("True", "False"),
        "gate.reasons": ("better than its base", "it forgets, it repeats"),
    }
