from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from configs.document import ROOT
from configs.home import Home
from configs.profile import Profile, load_profile
from groupqwen.stack import deploy
from groupqwen.stack.deploy import build_id, serve_config
from groupqwen.stack.settings import Settings
from serve_app.app import AppArgs


def configured(tmp_path: Path, profile: str = "cpu", **choices: str) -> Settings:
    loaded = load_profile(profile)
    return Settings(Home(tmp_path), loaded, loaded.ports.shifted(100), **choices)


def test_serve_takes_the_configuration_and_listens_on_loopback(tmp_path: Path) -> None:
    config = serve_config(configured(tmp_path, listen="0.0.0.0"))
    again = yaml.safe_load(yaml.safe_dump(config))
    taken = ServeDeploySchema.model_validate(again)
    assert (taken.http_options.host, taken.http_options.port) == ("127.0.0.1", 8100)
    (application,) = taken.applications
    assert application.import_path == "serve_app.app:build"
    assert application.route_prefix == "/"
    args = AppArgs.model_validate(application.args)
    assert args.profile == load_profile("cpu")
    assert args.catalog is not None
    assert set(args.catalog.variants) == set(load_profile("cpu").variants), "of the catalog, what is served"
    assert args.build == build_id()
    limit = load_profile("cpu").limits.request_seconds
    assert taken.http_options.request_timeout_s is not None
    assert taken.http_options.request_timeout_s > limit, "ours comes first, with an error event"


def test_the_configuration_is_the_same_in_every_process(tmp_path: Path) -> None:
    """What differs would replace every replica: sets are written in order."""
    catalog = serve_config(configured(tmp_path))["applications"][0]["args"]["catalog"]
    for spec in catalog["variants"].values():
        assert spec["capabilities"] == sorted(spec["capabilities"])
        assert spec["devices"] == sorted(spec["devices"])


def test_variants_of_other_machines_are_applications_of_their_own(tmp_path: Path) -> None:
    config = serve_config(configured(tmp_path, str(ROOT.parent / "tests" / "profiles" / "mixed.yaml")))
    taken = ServeDeploySchema.model_validate(yaml.safe_load(yaml.safe_dump(config)))
    main, node = taken.applications
    assert (node.name, node.route_prefix) == ("groupqwen-macbook", None)
    args = AppArgs.model_validate(node.args)
    assert args.node == "macbook"
    assert args == AppArgs.model_validate(main.args).model_copy(update={"node": "macbook"})


def test_the_configuration_holds_no_secret_and_no_path_of_this_machine(tmp_path: Path) -> None:
    settings = configured(tmp_path, redis_url="redis://:hunter2@host", database_url="postgresql://u:hunter2@host")
    text = yaml.safe_dump(serve_config(settings))
    assert "hunter2" not in text
    assert str(tmp_path) not in text


def test_a_profile_of_ones_own_is_the_one_that_replicas_load(tmp_path: Path) -> None:
    path = tmp_path / "workbench.yaml"
    text = (ROOT / "profiles" / "cpu.yaml").read_text().replace("name: cpu", "name: my-bench")
    path.write_text(text)
    settings = configured(tmp_path, str(path))
    args = AppArgs.model_validate(serve_config(settings)["applications"][0]["args"])
    path.unlink()
    assert args.profile == settings.profile, "it is inside: the file may go"
    assert isinstance(args.profile, Profile)
    assert args.profile.name == "my-bench"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree like ours, of which `build_id` takes the fingerprint."""
    for file in ("configs/models.yaml", "configs/routing.yaml", "configs/profiles/cpu.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT.parent / file, tmp_path / file)
    for file in ("deployments/a.py", "deployments/ledger/0001.sql", "serve_app/b.py", "groupqwen/stack/deploy.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"# {file}\n")
    monkeypatch.setattr(deploy, "__file__", str(tmp_path / "groupqwen/stack/deploy.py"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "replaces"),
    [
        ("deployments/a.py", True),
        ("deployments/ledger/0001.sql", True),
        ("serve_app/b.py", True),
        ("configs/models.yaml", False),  # stands in the configuration itself, and so do the rest
        ("configs/profiles/cpu.yaml", False),
        ("configs/routing.yaml", False),
        ("groupqwen/stack/deploy.py", False),  # replicas do not run it
        ("deployments/__pycache__/a.pyc", False),
    ],
)
def test_replicas_are_replaced_just_when_what_they_run_changes(copy: Path, file: str, replaces: bool) -> None:
    before = build_id()
    assert build_id() == before
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a") as changed:
        changed.write("\n# changed\n")
    assert (build_id() != before) == replaces


def test_the_real_build_has_an_id() -> None:
    assert build_id() == build_id()
    assert len(build_id()) == 16
    int(build_id(), 16)


def test_the_reason_of_a_failure_is_the_end_of_its_traceback() -> None:
    traceback = (
        "RuntimeError: Traceback (most recent call last):\n  File x\n"
        "deployments.residency.resident.WarmUpFailed: small failed its warm-up: it said 'x'"
    )
    details = {
        "message": "Failed to update the deployments ['small'].",
        "deployments": {"a": {"message": ""}, "small": {"message": traceback}},
    }
    assert deploy._last_line(details) == "small failed its warm-up: it said 'x'"
    assert deploy._last_line({"message": "Deploying"}) == "Deploying"
    assert deploy._last_line({}) == "no reason given"
