"""The first half of a job: what it says where the base's weights cannot be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from configs.catalog import load_catalog
from configs.home import Home
from configs.training import JobSpec, read_events, read_spec, write_spec
from deployments.budgets.limits import KeyLimits
from deployments.finetuning.ray_jobs import OUTPUT, ROOT, entrypoint
from groupqwen.downloads import MADE_OF
from groupqwen.training.prepare import prepare
from serve_app.keys import KeyRing, create_key, end_job_keys, read_keys


def spec_in(tmp_path: Path, gguf: Path | None, base: str = "nobody") -> Path:
    job_id = "ftjob-" + "0" * 24
    folder = tmp_path / "jobs" / job_id
    paths = {"weights": tmp_path / "weights", "dataset": tmp_path / "data", "adapters": tmp_path / "adapters"}
    write_spec(folder, JobSpec(id=job_id, name="habit", base=base, base_gguf=gguf, **paths))
    return folder


def test_weights_that_are_there_are_left_alone(tmp_path: Path) -> None:
    folder = spec_in(tmp_path, None)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    assert prepare(folder) == 0
    assert list(read_events(folder)) == []


def test_a_job_fails_with_the_reason_where_its_base_is_not_there(tmp_path: Path) -> None:
    for gguf, said in ((tmp_path / "a.gguf", "groupqwen models pull"), (None, "not in the catalog")):
        folder = spec_in(tmp_path / str(gguf is None), gguf)
        assert prepare(folder) == 1
        last = list(read_events(folder))[-1]
        assert (last.kind, last.data["state"]) == ("state", "failed")
        assert said in last.data["error"]


def test_a_job_of_the_group_has_its_weights_from_where_all_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    # Those that another variant of the same file has already.
    ready = Home(tmp_path).model_folder("smollm2-135m-bf16")
    ready.mkdir(parents=True)
    (ready / "config.json").write_text("{}")
    source = load_catalog().variant("smollm2-135m-bf16").source
    (ready / MADE_OF).write_text(f"{source.uri} {source.sha256 or ''}\n")
    (tmp_path / "a.gguf").touch()
    folder = spec_in(tmp_path, tmp_path / "a.gguf", "smollm2-135m")
    assert prepare(folder) == 0
    assert (tmp_path / "weights" / "config.json").read_text() == "{}"
    # None, of a repository whose weights are of few bits.
    folder = spec_in(tmp_path / "other", None, "qwen3-vl")
    assert prepare(folder) == 1
    assert "is quantized (FP8): train a variant" in list(read_events(folder))[-1].data["error"]


def test_a_job_trains_in_the_ray_that_started_it(tmp_path: Path) -> None:
    """Ray names to its jobs the one that was started last on the machine. The judge's key is nowhere that Ray's
    dashboard shows."""
    said = "import os, pathlib, sys; pathlib.Path(sys.argv[1], 'seen').write_text(os.environ['RAY_ADDRESS'])"
    (tmp_path / "runner_of_a_test.py").write_text(said)
    folder = spec_in(tmp_path, None)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    command = entrypoint("runner_of_a_test", folder, "127.0.0.1:6380")
    assert "JUDGE" not in command
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    there = {"PYTHONPATH": path, "RAY_ADDRESS": "auto", "GROUPQWEN_HOME": str(tmp_path / "home")}
    subprocess.run(["sh", "-c", command], env={**os.environ, **there}, check=True)
    assert (folder / "seen").read_text() == "127.0.0.1:6380"


RUNNER = """
import os, pathlib, sys
print("a runner")
pathlib.Path(sys.argv[1]).parents[1].joinpath("seen").write_text(os.environ.get("GROUPQWEN_JUDGE_KEY", "none"))
"""


def test_a_job_asks_with_a_key_of_its_own_that_may_do_nothing_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.run.mkdir(parents=True)
    (home.run / "choices.json").write_text("{}")
    owner, secret = create_key(home.keys, "the owner")
    (tmp_path / "runner_of_a_test.py").write_text(RUNNER)
    folder = spec_in(tmp_path, None)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "GROUPQWEN_HOME": str(home.root)}

    def run() -> str:
        command = entrypoint("runner_of_a_test", folder, "127.0.0.1:6380")
        subprocess.run(["sh", "-c", command], env={**os.environ, **environment}, check=True)
        return (tmp_path / "seen").read_text()

    seen = run()
    key = KeyRing(home.keys).find(seen)
    assert key is not None and seen != secret
    assert (key.scopes, key.remote, key.own_cache, key.query_text) == (("chat",), False, True, "none")
    assert (key.job, key.limits) == (read_spec(folder).id, KeyLimits(concurrent=2))
    engines = {load_catalog().variant(name).engine for name in key.variants or ()}
    assert engines and "remote" not in engines
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if seen in path.read_text()]
    assert "a runner" in (folder / OUTPUT).read_text()

    environment["GROUPQWEN_JUDGE_MODEL"] = "mine"
    other = KeyRing(home.keys).find(run())
    assert other is not None and other.variants == ("mine",) and other.sha256 != key.sha256
    assert KeyRing(home.keys).find(seen) is None, "of a job's attempts the last one may ask"

    assert end_job_keys(home.keys, {read_spec(folder).id}) == []
    assert end_job_keys(home.keys, set()) == [other.id]
    assert read_keys(home.keys) == [owner], "what is no job's stays"

    (home.run / "choices.json").write_text('{"profile": "nobody"}')
    assert run() == "none", "it goes on without a judge"
    (home.run / "choices.json").write_text("{}")
    spec = read_spec(folder).model_copy(update={"evaluate": False})
    (folder / "spec.json").write_text(spec.model_dump_json())
    assert run() == "none", "who is not evaluated needs none"
