"""The real stack, started once for all integration tests, in a home and on ports of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from openai import OpenAI

from configs.catalog import load_catalog
from configs.home import Home
from configs.profile import load_profile
from configs.routing import ROUTING
from deployments.cache.seal import make_key
from groupqwen.stack.credentials import Credentials, load_credentials
from groupqwen.stack.deploy import http
from groupqwen.stack.lifecycle import Choices, remembered, settings_for
from groupqwen.stack.processes import marked
from groupqwen.stack.settings import Settings

ROOT = Path(__file__).parents[2]
PORT_OFFSET = int(os.environ.get("GROUPQWEN_TEST_PORT_OFFSET", "1000"))
"""Another, where tests of two checkouts run side by side."""
SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
NO_END = dict.fromkeys(("0", "2", "4"), -100)
"""A `logit_bias` that forbids the smallest variant to end: each token that llama.cpp takes for an end."""
QWENS_NO_END = dict.fromkeys(("128247", "151643", "151645", "151662", "151663", "151664"), -100)
"""The same of the two others."""

RULES = ROUTING.read_text()
for _name, _value in (("budget_ms", "500"), ("unjudged_quality", "0.0")):
    RULES, _changed = re.subn(rf"\b{_name}: [\d.]+", f"{_name}: {_value}", RULES)
    assert _changed == 1
"""What the stack is served by, as the owner's own: a lookup may take more than 20 ms on a machine that has other
things to do, and the smallest variant answers also unasked, which is quick."""
MIXED, ONE_OF_THREE = (ROOT / "tests" / "profiles" / f"{name}.yaml" for name in ("mixed", "one-of-three"))
IN_ORDER = (
    "test_rollouts",
    "test_nodes",
    "test_vllm",
    "test_residency",
    "test_finetuning",
    "test_finetuning_jobs",
    "test_slow_clients",
    "test_stopping",
)
"""Modules that need another profile, in the order that changes it least, and the one that stops it all; all others
come before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: IN_ORDER.index(item.path.stem) + 1 if item.path.stem in IN_ORDER else 0)


@dataclass(frozen=True)
class Stack:
    """The running installation, as a client and as its owner sees it."""

    settings: Settings
    credentials: Credentials

    @property
    def url(self) -> str:
        return self.settings.endpoint

    @property
    def key(self) -> str:
        return self.credentials.api_key

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, **{"api_key": self.key, "max_retries": 0, "timeout": 120, **options})

    def get(self, path: str) -> httpx.Response:
        return http().get(self.url + path, headers=self.headers, timeout=30)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return http().post(self.url + path, json=body, headers={**self.headers, **headers}, timeout=180)

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        """One question, uncached unless `cache` says otherwise."""
        control = fields.pop("cache", "no-store")
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **fields}
        return self.post("/chat/completions", body, **{"cache-control": control} if control else {})

    def status(self, variant: str) -> dict[str, Any]:
        return dict(self.get(f"/models/{variant}").json()["status"])

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes of this installation whose command line holds `name`."""
        found = []
        for process in marked(self.settings):
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def replica(self, deployment: str) -> psutil.Process:
        return self.processes(f"ServeReplica:groupqwen:{deployment}")[0]

    def run_cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "groupqwen.cli", *arguments],
            # The path is for coverage's plugin, tests/coverage_saver.py.
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "GROUPQWEN_HOME": str(self.settings.home.root),
                **environment,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run_cli("up", "--port-offset", str(PORT_OFFSET), "--no-ask", *arguments)

    def ledger_ids(self) -> list[str]:
        """Request ids of the ledger's rows."""

        async def ids() -> list[str]:
            url = self.settings.environment(self.credentials)["GROUPQWEN_DATABASE_URL"]
            connection = await asyncpg.connect(url)
            try:
                return [row["request_id"] for row in await connection.fetch("select request_id from queries")]
            finally:
                await connection.close()

        return asyncio.run(ids())

    def use(self, profile: Path) -> None:
        """Serve this profile, if it is not the one that is served."""
        now = remembered(self.settings.home)
        if now is None or now.profile != str(profile):
            changed = self.run_cli("deploy", "--profile", str(profile))
            assert changed.returncode == 0, changed.stdout + changed.stderr

    @contextmanager
    def served_by(self, rules: str) -> Iterator[None]:
        """These routing rules, in place of `RULES`."""
        try:
            self.settings.home.routing.write_text(rules)
            done = self.run_cli("deploy")
            assert done.returncode == 0, done.stdout + done.stderr
            yield
        finally:
            self.settings.home.routing.write_text(RULES)
            done = self.run_cli("deploy")
            assert done.returncode == 0, done.stdout + done.stderr

    def wait_until_well(self, seconds: float = 90) -> None:
        wait_for(
            lambda: self.health().get("status") == "ok",
            seconds,
            lambda: f"the stack did not become well again: {self.health()}",
        )

    def health(self) -> dict[str, Any]:
        """All that `/v1/health` says, or why it says nothing."""
        try:
            return dict(self.get("/health").json())
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            return {"status": f"unreachable: {error!r}"}


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str | Callable[[], str]) -> float:
    """Wait until `condition` holds; how long it took. Fails the test after `seconds`, with what `otherwise` says
    then."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            pytest.fail(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.1)
    return time.monotonic() - started


@pytest.fixture(scope="session")
def home() -> Home:
    """Kept between runs, because of the weights in it."""
    return Home(Path(os.environ.get("GROUPQWEN_TEST_HOME") or ROOT / ".test-home").absolute())


@pytest.fixture(scope="session")
def weights(home: Home) -> Callable[[str], Path]:
    """The weights of a variant, fetched if they are not there."""
    from rich.console import Console

    from groupqwen.models import prepare_embedder, pull, wanted

    catalog = load_catalog()
    profile = load_profile("cpu", catalog)
    home.make()
    pull(wanted(profile, catalog, home), Console(stderr=True))
    prepare_embedder(profile, catalog, home)
    return lambda name: home.model_file(name, catalog.variant(name).source)


@pytest.fixture(scope="session")
def stack(home: Home, weights: Callable[[str], Path]) -> Iterator[Stack]:
    del weights
    # What is kept of questions and answers is encrypted here; `bash scripts/up.sh` alone keeps it in clear.
    if not home.cache_key.exists():
        make_key(home.cache_key)
    settings = settings_for(home, Choices(port_offset=PORT_OFFSET))
    running = Stack(settings, load_credentials(home))
    running.run_cli("down")
    home.routing.write_text(RULES)
    done = running.up()
    assert done.returncode == 0, done.stdout + done.stderr
    yield running
    running.run_cli("down")
    home.routing.unlink()


@pytest.fixture(scope="module")
def group(stack: Stack) -> Stack:
    """The stack with variants that are swapped, and a stand-in for what a fine-tuning job's process does."""
    stack.use(ONE_OF_THREE)
    return stack


@pytest.fixture()
def client(stack: Stack) -> OpenAI:
    return stack.client()
