"""`serve deploy`: writes the Serve configuration, hands it to Ray, and waits until it answers."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml

from configs.catalog import Catalog
from configs.code import code_id
from configs.placement import application_of
from configs.routing import load_routing
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings

READY_SECONDS = 600.0
DEPLOY_ATTEMPTS = 5
POLL_SECONDS = 0.5
APPLICATION = "groupqwen"


RULED = ("Router", "SemanticCache", "Classifier")
"""Deployments that `user_config` brings the routing rules: they change without a restart."""


def serve_config(settings: Settings, build: str | None = None) -> dict[str, Any]:
    """What `serve deploy` takes, with everything that it depends on inside: profile, the catalog's part of it and
    the rules; so that it can be gone back to, whatever has become of the files by then. Serve listens on loopback;
    haproxy.sh adds the address of `--listen`. `build`: when it changes, everything is replaced; None: when the
    code does."""
    profile, catalog = settings.profile, settings.profile.serving(settings.catalog)
    used = Catalog(
        variants={name: catalog.variant(name) for name in profile.variants},
        embedders={profile.embedder: catalog.embedders[profile.embedder]},
    )
    learned = {
        "router": _fingerprint(settings.home.router),
        "families": _fingerprint(settings.home.families),
        "calibration": _fingerprint(settings.home.calibration),
    }
    rules = {"routing": load_routing().model_dump(mode="json"), "learned": learned}
    args = {
        "profile": profile.model_dump(mode="json", exclude_defaults=True),
        "catalog": used.model_dump(mode="json", exclude_defaults=True),
        "build": build or code_id(),
    }
    trace = None if settings.trace is None else settings.trace.model_dump()
    on_nodes = [device for device in profile.nodes if profile.on(device).variants]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": "127.0.0.1",
            "port": settings.ports.http,
            "request_timeout_s": settings.profile.limits.request_seconds + 30,
        },
        "logging_config": {
            "log_level": settings.log_level.upper(),
            "encoding": "JSON",
            "enable_access_log": settings.log_level in ("debug", "info"),
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve_app.app:build",
                "args": args,
                "deployments": [
                    *({"name": name, "user_config": rules} for name in RULED),
                    {"name": "Gateway", "user_config": {"trace": trace}},
                ],
            },
            # They wait for their nodes, and hold nobody up meanwhile.
            *(
                {
                    "name": application_of(device),
                    "route_prefix": None,
                    "import_path": "serve_app.app:build",
                    "args": {**args, "node": device},
                }
                for device in on_nodes
            ),
        ],
    }


def _fingerprint(path: Path) -> str | None:
    """Of what was learned: replicas read it anew when this changes."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def deploy(settings: Settings, credentials: Credentials, config: dict[str, Any]) -> None:
    """Run `serve deploy`. Raises `StartProblem` with Serve's own last words."""
    path = settings.home.run / "serve_config.new.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        str(Path(sys.executable).parent / "serve"),
        "deploy",
        "--address",
        settings.dashboard,
        str(path),
    ]
    environment = {**os.environ, **settings.environment(credentials)}
    for attempt in range(DEPLOY_ATTEMPTS):
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        # Ray's dashboard answers a little before it can start Serve.
        time.sleep(1 + attempt)
    lines = [
        line.strip() for line in (done.stderr + done.stdout).splitlines() if "Error" in line or "error" in line
    ]
    raise StartProblem(f"`serve deploy` failed: {lines[-1] if lines else 'no reason given'}")


@cache
def http() -> httpx.Client:
    """One client for all questions to what runs here: making one reads every certificate of the system, which
    takes longer than an answer. Connections are not kept, since who answers is restarted in between."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


def wait_for_ray(settings: Settings, credentials: Credentials, seconds: float = 90.0) -> bool:
    """Until the dashboard takes Serve configurations."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if application(settings, credentials) is not None:
            return True
        time.sleep(POLL_SECONDS)
    return False


def application(settings: Settings, credentials: Credentials) -> dict[str, Any] | None:
    """Serve's own details of all applications, or None while it does not answer."""
    headers = {"Authorization": f"Bearer {credentials.ray_token}"}
    try:
        response = http().get(f"{settings.dashboard}/api/serve/applications/", headers=headers, timeout=5)
        return dict(response.json()) if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None


def wait_until_ready(
    settings: Settings, credentials: Credentials, progress: Callable[[str], None], name: str = APPLICATION
) -> None:
    """Until a question would be answered (the main application), or all of its deployments are healthy (another).
    `progress` hears what is being waited for. Raises `StartProblem`."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        details = application(settings, credentials) or {}
        mine = details.get("applications", {}).get(name, {})
        status = mine.get("status", "waiting for Serve")
        if status in ("DEPLOY_FAILED", "UNHEALTHY") and mine.get("message"):
            raise StartProblem(f"the application did not start: {_last_line(mine)}")
        deployments = mine.get("deployments", {})
        waiting = [name for name, one in deployments.items() if one.get("status") != "HEALTHY"]
        progress(", ".join(waiting) if waiting else status.lower())
        if status == "RUNNING" and not waiting and (name != APPLICATION or _is_well(settings, credentials)):
            return
        time.sleep(POLL_SECONDS)
    raise StartProblem(
        f"the application was not ready within {READY_SECONDS:.0f} s; `groupqwen status` and {settings.home.logs} "
        "say more"
    )


def _is_well(settings: Settings, credentials: Credentials) -> bool:
    try:
        health = ask(settings, credentials, "/health")
        return health.status_code == 200 and health.json()["status"] == "ok"
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def ask(settings: Settings, credentials: Credentials, path: str) -> httpx.Response:
    """The endpoint, as its owner. Raises `httpx.HTTPError`."""
    headers = {"Authorization": f"Bearer {credentials.api_key}"}
    return http().get(f"{settings.endpoint}{path}", headers=headers, timeout=10)


def _last_line(details: dict[str, Any]) -> str:
    """What went wrong, from Serve's messages: the line that ends the last traceback."""
    messages = [details.get("message", "")]
    messages += [one.get("message", "") for one in details.get("deployments", {}).values()]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return _RAISED.sub("", raised[-1]) if raised else lines[-1] if lines else "no reason given"


_RAISED = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failed|Problem|Refused): (?!Traceback)")
