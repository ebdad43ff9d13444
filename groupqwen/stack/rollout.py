"""Bringing a changed configuration into service, and going back where that fails.

What serves is noted in the home (`run/serve_config.yaml`) once it does. A canary is a second Serve application
with the new versions of the variants that change; the Router gives it a share of their requests, and answers
from the old ones where it fails.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from configs.code import code_id
from configs.machine import free_gpu_memory_mb, free_memory_mb
from configs.planner import lay_out
from deployments.router.canary import CANARY
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.deploy import APPLICATION, application, ask, deploy, serve_config, wait_until_ready
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings

TOLERATED = 0.01
"""Of a canary's requests: with more than this share failed, it is taken back."""

SETTLE_SECONDS = 3.0
"""In which a Router's last requests for the canary have begun."""

Config = dict[str, Any]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class CanaryPlan:
    """`share`: of the requests for what changes, 0 to 1. `watch_seconds`: how long it is watched."""

    share: float
    watch_seconds: float


def serving(settings: Settings) -> Config | None:
    """The configuration that serves, or None where nothing has yet."""
    try:
        config = yaml.safe_load(_note(settings).read_text())
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def roll_out(
    settings: Settings, credentials: Credentials, progress: Progress, canary: CanaryPlan | None = None
) -> str | None:
    """Deploy, and wait until it answers. What a canary showed is returned. Raises `StartProblem`, after going back
    to what served before."""
    previous = serving(settings)
    found = ((application(settings, credentials) or {}).get("applications") or {}).get(APPLICATION)
    config = serve_config(settings, build_of(found, previous))
    if found is None:
        previous = None  # Of an earlier life of the cluster: there is nothing to go back to.
    told = None
    if canary is not None:
        if previous is None:
            raise StartProblem(
                "there is nothing that a canary could be tried beside: run `bash scripts/up.sh` first"
            )
        told = _try_out(settings, credentials, progress, previous, config, canary)
    try:
        deploy(settings, credentials, config)
        wait_until_ready(settings, credentials, progress)
    except StartProblem as problem:
        if previous is None or previous == config:
            raise
        _go_back(settings, credentials, progress, previous, problem)
    note = _note(settings)
    staged = note.with_suffix(".staged")
    staged.write_text(yaml.safe_dump(config, sort_keys=False))
    staged.replace(note)
    return told


def build_of(found: Mapping[str, Any] | None, previous: Config | None) -> str:
    """The `build` to deploy: the code's fingerprint. Where Serve has given something up, with the time added,
    because it does not try again what has not changed; and that stays until the code changes."""
    code = code_id()
    if found is not None and found.get("status") == "DEPLOY_FAILED":
        return f"{code}+{int(time.time())}"
    before = "" if previous is None else str(previous["applications"][0]["args"].get("build"))
    return before if before.startswith(f"{code}+") else code


def changed_variants(previous: Config, config: Config) -> list[str]:
    """The head's variants that are new, or run differently than before."""
    old, new = (one["applications"][0]["args"] for one in (previous, config))
    same_code = old.get("build") == new.get("build")

    def of(args: Config, name: str) -> Any:
        return args["profile"]["variants"].get(name), args["catalog"]["variants"].get(name)

    return [
        name
        for name, served in new["profile"]["variants"].items()
        if served.get("node") is None and (not same_code or of(old, name) != of(new, name))
    ]


def with_canary(previous: Config, config: Config, variants: list[str], share: float) -> Config:
    """What serves, with the new versions of `variants` beside it, which get `share` of their requests."""
    both = copy.deepcopy(previous)
    main = both["applications"][0]
    for one in main["deployments"]:
        if one["name"] == "Router":
            # Only what the head serves in both versions can be given to either.
            old = main["args"]["profile"]["variants"]
            known = [name for name in variants if name in old and old[name].get("node") is None]
            if share:
                one["user_config"] = {**one["user_config"], "canary": {"share": share, "variants": known}}
    args = {**config["applications"][0]["args"], "variants": variants}
    tried = {"name": CANARY, "route_prefix": None, "import_path": main["import_path"], "args": args}
    both["applications"].append(tried)
    return both


def _try_out(
    settings: Settings,
    credentials: Credentials,
    progress: Progress,
    previous: Config,
    config: Config,
    canary: CanaryPlan,
) -> str:
    variants = changed_variants(previous, config)
    if not variants:
        return "no variant changes: there was nothing to try"
    _check_room(settings, variants)
    try:
        # First without a share, until all of it has answered its warm-up question.
        deploy(settings, credentials, with_canary(previous, config, variants, 0.0))
        wait_until_ready(settings, credentials, progress, CANARY)
        deploy(settings, credentials, with_canary(previous, config, variants, canary.share))
        wait_until_ready(settings, credentials, progress)
        told = _watch(settings, credentials, progress, canary)
        _end_share(settings, credentials, progress, with_canary(previous, config, variants, 0.0))
        return told
    except BaseException as problem:  # Also when someone presses Ctrl-C: a canary must not stay behind.
        with suppress(StartProblem):
            _end_share(settings, credentials, progress, with_canary(previous, config, variants, 0.0))
        _go_back(settings, credentials, progress, previous, problem)
        raise  # Not reached: going back raises.


def _end_share(settings: Settings, credentials: Credentials, progress: Progress, without: Config) -> None:
    """No more requests for the canary, before it goes."""
    deploy(settings, credentials, without)
    wait_until_ready(settings, credentials, progress)
    time.sleep(SETTLE_SECONDS)


def _check_room(settings: Settings, variants: list[str]) -> None:
    """The canary's variants fit beside what serves."""
    rows = lay_out(settings.profile, settings.catalog, 0).rows
    wanted = sum(row.total_mb for row in rows if row.variant in variants)
    free = free_gpu_memory_mb() if settings.profile.machine.accelerator == "cuda" else free_memory_mb()
    if free is not None and wanted > free:
        raise StartProblem(
            f"a canary of {', '.join(variants)} takes {wanted} MiB beside what serves, and {free} are free; "
            "deploy without --canary"
        )


def _watch(settings: Settings, credentials: Credentials, progress: Progress, canary: CanaryPlan) -> str:
    until = time.monotonic() + canary.watch_seconds
    seen: dict[str, Any] = {}
    while time.monotonic() < until:
        details = application(settings, credentials) or {}
        status = details.get("applications", {}).get(CANARY, {}).get("status")
        if status == "UNHEALTHY":
            raise StartProblem("the canary has become unhealthy")
        with suppress(httpx.HTTPError, ValueError):
            report = ask(settings, credentials, "/rollout")
            seen = (report.json() or seen) if report.status_code == 200 else seen
        answered, failed = seen.get("answered", 0), seen.get("failed", 0)
        progress(f"canary: {answered} answered, {failed} failed; {max(0, until - time.monotonic()):.0f} s to go")
        if failed > TOLERATED * answered:
            raise StartProblem(f"the canary failed {failed} of {answered + failed} requests")
        time.sleep(0.5)
    if not seen.get("answered"):
        return "nobody asked the canary anything; it has answered its warm-up questions"
    return f"the canary answered {seen['answered']} requests and failed {seen['failed']}"


def _go_back(
    settings: Settings, credentials: Credentials, progress: Progress, previous: Config, problem: BaseException
) -> None:
    progress("going back to what served before")
    try:
        deploy(settings, credentials, previous)
        wait_until_ready(settings, credentials, progress)
    except StartProblem as second:
        raise StartProblem(f"{problem or 'interrupted'}; going back failed too: {second}") from problem
    raise StartProblem(f"{problem or 'interrupted'}; what served before serves again") from problem


def _note(settings: Settings) -> Path:
    return settings.home.run / "serve_config.yaml"
