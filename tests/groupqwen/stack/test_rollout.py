from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.serve.schema import ServeDeploySchema

from configs.code import code_id
from configs.home import Home
from configs.profile import load_profile
from deployments.router.canary import CANARY, CanaryRules
from groupqwen.cli import _share
from groupqwen.stack.deploy import serve_config
from groupqwen.stack.rollout import Config, build_of, changed_variants, serving, with_canary
from groupqwen.stack.settings import Settings
from serve_app.app import AppArgs


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    profile = load_profile("cpu")
    return Settings(Home(tmp_path), profile, profile.ports)


def served_otherwise(settings: Settings, **changes: Any) -> Config:
    """The configuration with `smollm2-135m` served otherwise."""
    variants = dict(settings.profile.variants)
    variants["smollm2-135m"] = variants["smollm2-135m"].model_copy(update=changes)
    profile = settings.profile.model_copy(update={"variants": variants})
    return serve_config(Settings(settings.home, profile, settings.ports))


def test_what_changes_is_what_is_served_otherwise(settings: Settings) -> None:
    before = serve_config(settings)
    assert changed_variants(before, serve_config(settings)) == []
    assert changed_variants(before, served_otherwise(settings, context=1024)) == ["smollm2-135m"]
    other_code = serve_config(settings)
    other_code["applications"][0]["args"]["build"] = "another"
    assert changed_variants(before, other_code) == list(settings.profile.variants), "new code is new everywhere"
    rules = serve_config(settings)
    rules["applications"][0]["deployments"][0]["user_config"]["routing"]["aliases"] = {}
    assert changed_variants(before, rules) == [], "rules need no canary"


def test_a_canary_stands_beside_what_serves_and_gets_its_share(settings: Settings) -> None:
    before, after = serve_config(settings), served_otherwise(settings, context=1024)
    both = with_canary(before, after, ["smollm2-135m"], 0.1)
    taken = ServeDeploySchema.model_validate(yaml.safe_load(yaml.safe_dump(both)))
    main, tried = taken.applications
    assert main.args == before["applications"][0]["args"], "what serves is not touched"
    assert (tried.name, tried.route_prefix) == (CANARY, None)
    args = AppArgs.model_validate(tried.args)
    assert args.variants == ("smollm2-135m",)
    assert args.profile.variants["smollm2-135m"].context == 1024  # type: ignore[union-attr]
    router = next(one for one in main.deployments if one.name == "Router")
    rules = CanaryRules.model_validate(router.user_config["canary"])  # type: ignore[index]
    assert rules == CanaryRules(share=0.1, variants=("smollm2-135m",))
    assert "canary" not in before["applications"][0]["deployments"][0]["user_config"], (
        "the original stays as it is"
    )


def test_the_router_hears_of_a_canary_only_when_it_is_there(settings: Settings) -> None:
    """A Router that is given handles to nothing would not come up again."""
    both = with_canary(serve_config(settings), served_otherwise(settings, context=1024), ["smollm2-135m"], 0.0)
    assert both["applications"][0] == serve_config(settings)["applications"][0]
    assert both["applications"][-1]["name"] == CANARY


def test_variants_of_other_machines_are_not_tried(settings: Settings) -> None:
    profile = load_profile(str(Path(__file__).parents[2] / "profiles" / "mixed.yaml"))
    before = serve_config(Settings(settings.home, profile, settings.ports))
    other_code = serve_config(Settings(settings.home, profile, settings.ports))
    for application in other_code["applications"]:
        application["args"]["build"] = "another"
    changed = changed_variants(before, other_code)
    assert changed == ["smollm2-135m", "smollm2-135m-bf16"]


def test_a_variant_that_is_new_gets_no_share_of_requests_that_nobody_can_make(settings: Settings) -> None:
    both = with_canary(serve_config(settings), serve_config(settings), ["brand-new"], 0.1)
    router = next(one for one in both["applications"][0]["deployments"] if one["name"] == "Router")
    assert router["user_config"]["canary"]["variants"] == []


def test_what_serves_is_what_was_noted(settings: Settings) -> None:
    assert serving(settings) is None
    settings.home.make()
    note = settings.home.run / "serve_config.yaml"
    for damaged in ("", "[", "7"):
        note.write_text(damaged)
        assert serving(settings) is None
    config = serve_config(settings)
    note.write_text(yaml.safe_dump(config))
    assert serving(settings) == config


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.25", 0.25), ("100%", 1.0), ("0.5%", 0.005)])
def test_a_share_is_written_either_way(text: str, share: float) -> None:
    assert _share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "ten", "0", "-10%", "10", "101%", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        _share(text)


def test_what_serve_has_given_up_is_tried_again_under_another_build() -> None:
    code = code_id()
    failed, running = {"status": "DEPLOY_FAILED"}, {"status": "RUNNING"}

    def noted(build: str) -> dict[str, Any]:
        return {"applications": [{"args": {"build": build}}]}

    assert build_of(None, None) == build_of(running, noted(code)) == code
    again = build_of(failed, noted(code))
    assert again.startswith(f"{code}+")
    assert build_of(running, noted(again)) == again, "what runs now is not replaced for that"
    assert build_of(running, noted("other code+1")) == code
