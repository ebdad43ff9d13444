from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from configs.code import code_id
from configs.document import ROOT, ConfigError
from configs.home import Home
from configs.profile import Profile, load_profile
from configs.tracing import TraceRules
from groupqwen.stack import deploy
from groupqwen.stack.deploy import serve_config
from groupqwen.stack.settings import Settings, trace_choice
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
    assert args.build == code_id()
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


def test_what_is_logged_and_traced_reaches_serve_without_a_restart(tmp_path: Path) -> None:
    quiet = serve_config(configured(tmp_path))
    rules = TraceRules(to="http://127.0.0.1:4318", share=0.5)
    loud = serve_config(replace(configured(tmp_path), log_level="debug", trace=rules))
    assert quiet["logging_config"] == {"log_level": "WARNING", "encoding": "JSON", "enable_access_log": False}
    assert loud["logging_config"] == {"log_level": "DEBUG", "encoding": "JSON", "enable_access_log": True}

    def gateways(config: dict[str, Any]) -> Any:
        (one,) = (one for one in config["applications"][0]["deployments"] if one["name"] == "Gateway")
        return one["user_config"]["trace"]

    # (Null, and not left out: only what is said reaches a replica that runs.)
    assert gateways(quiet) is None
    assert TraceRules.model_validate(gateways(loud)) == rules
    assert loud["applications"][0]["args"] == quiet["applications"][0]["args"]


def test_where_spans_go_is_checked_before_anything_is_started() -> None:
    assert trace_choice("off", 1.0, False) is None
    assert trace_choice("file", 0.1, True) == TraceRules(to="file", share=0.1, words=True).model_dump()
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as refused:
        trace_choice("http://user:secret@host", 1.0, False)
    assert "secret" not in str(refused.value)
