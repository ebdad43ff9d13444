"""`up` and `down`: from nothing to a ready endpoint, and back, however things were left."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from filelock import FileLock, Timeout
from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError
from rich.console import Console

from configs.catalog import MODELS, load_catalog
from configs.fitting import fit, this_machine
from configs.home import Home
from configs.machine import memory_mb
from configs.planner import make_plans
from configs.profile import load_profile
from configs.routing import load_routing
from groupqwen.models import fetch_profile
from groupqwen.stack import postgres, redis
from groupqwen.stack.checks import check_home, check_machine, check_ports, ports_are_free
from groupqwen.stack.credentials import Credentials, load_credentials, write_private
from groupqwen.stack.deploy import http, wait_for_ray
from groupqwen.stack.firewall import firewall, interface_of
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.processes import end, marked, orphaned_agents, wait_until
from groupqwen.stack.rollout import CanaryPlan, roll_out
from groupqwen.stack.settings import LOOPBACK, Settings
from groupqwen.stack.supervisor import Program, Supervisor, ray_program

LOCK_SECONDS = 900.0
REDIS_SECONDS = 20.0
LOADING_SECONDS = 600.0
"""Until Redis answers; until it has read what it kept."""


@dataclass(frozen=True)
class Choices:
    """What a person may choose when starting; it is remembered for `status`, `down` and the next `up`."""

    profile: str = "cpu"
    catalog: str | None = None
    listen: str | None = None
    port_offset: int = 0
    interface: str = LOOPBACK


def settings_for(home: Home, choices: Choices) -> Settings:
    """Raises `ConfigError` for a profile that is not there or wrong."""
    catalog = load_catalog(Path(choices.catalog) if choices.catalog else MODELS)
    profile = load_profile(choices.profile, catalog)
    profile, adapted = fit(profile, catalog, this_machine(profile.machine.accelerator))
    return Settings(
        home=home,
        profile=profile,
        adapted=adapted,
        catalog=profile.serving(catalog),
        ports=profile.ports.shifted(choices.port_offset),
        listen=choices.listen,
        interface=choices.interface,
        redis_url=os.environ.get("GROUPQWEN_REDIS_URL") or None,
        database_url=os.environ.get("GROUPQWEN_DATABASE_URL") or None,
    )


def remembered(home: Home) -> Choices | None:
    """What the last `up` was started with."""
    try:
        return Choices(**json.loads((home.run / "choices.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def only_one(home: Home, console: Console) -> Iterator[None]:
    """One `up` or `down` at a time: a second one waits for the first."""
    home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(str(home.run / "lifecycle.lock"))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        console.print("Another `up` or `down` is at work here; waiting for it.")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise StartProblem("another `up` or `down` has been at work for 15 minutes; end it first") from None
    try:
        yield
    finally:
        lock.release()


def up(settings: Settings, choices: Choices, console: Console) -> Credentials:
    """Bring everything up and wait until it answers. Does nothing twice. Raises `StartProblem`,
    `DownloadError`, and `PlanRefused` before anything is touched."""
    _check(settings)
    _tell(settings, console)
    with only_one(settings.home, console):
        previous = remembered(settings.home)
        credentials = load_credentials(settings.home)
        write_private(settings.home.run / "ray-token", credentials.ray_token)
        supervisor = Supervisor(settings)
        if supervisor.running and previous is not None and _node_choices(previous) != _node_choices(choices):
            console.print("The ports or the address have changed: starting anew.")
            _stop(settings, supervisor)
        if not supervisor.running:
            # What an `up` that was killed has left behind would hold ports, sockets and data.
            left = [*marked(settings), *orphaned_agents(settings)]
            end(left)
            if left:
                # Ray's agents go by themselves, a little after the raylet that they belong to.
                wait_until(lambda: ports_are_free(settings), 20)
            check_ports(settings)
        if settings.interface != LOOPBACK:
            where = settings.home, settings.ports, settings.interface
            console.print(firewall(*where, others="the machines of the group"))
        _fetch(settings, console)
        write_private(settings.home.run / "choices.json", json.dumps(choices.__dict__))
        with console.status("Starting Redis, PostgreSQL and Ray …") as status:
            _start_services(settings, credentials, supervisor)
            status.update("Deploying the application …")
            try:
                roll_out(settings, credentials, lambda what: status.update(f"Loading models … ({what})"))
            except StartProblem:
                if previous is not None:
                    # What serves is the old; where it listens is the new.
                    kept = replace(choices, profile=previous.profile, catalog=previous.catalog)
                    write_private(settings.home.run / "choices.json", json.dumps(kept.__dict__))
                raise
    return credentials


def change(settings: Settings, choices: Choices, canary: CanaryPlan | None, console: Console) -> str | None:
    """Bring a changed configuration into service on what `up` has started; says what a canary showed. Raises as
    `up` does, after going back to what served before."""
    _check(settings)
    _tell(settings, console)
    with only_one(settings.home, console):
        if not Supervisor(settings).running:
            raise StartProblem("nothing runs here: `bash scripts/up.sh` starts it")
        _fetch(settings, console)
        credentials = load_credentials(settings.home)
        with console.status("Waiting for Ray …") as status:
            _wait_for_ray(settings, credentials)
            status.update("Deploying …")
            told = roll_out(settings, credentials, status.update, canary)
        write_private(settings.home.run / "choices.json", json.dumps(choices.__dict__))
    return told


def _check(settings: Settings) -> None:
    """What can be known to be wrong before anything is touched."""
    make_plans(settings.profile, settings.catalog, memory_mb(settings.profile.machine.accelerator))
    load_routing()
    if settings.interface != LOOPBACK:
        interface_of(settings.interface)
    check_machine(settings.profile.on(None), settings.catalog)
    check_home(settings)


def _tell(settings: Settings, console: Console) -> None:
    if settings.adapted:
        console.print(
            f"To fit this machine: {'; '.join(settings.adapted)}. `groupqwen plan --profile "
            f"{settings.profile.name}` shows it."
        )


def down(settings: Settings, console: Console, drain_seconds: float = 0.0) -> bool:
    """Stop exactly what `up` has started, once what is being answered has ended (`drain_seconds`). Data stays.
    False: nothing was running."""
    with only_one(settings.home, console), console.status("Stopping …") as status:
        if drain_seconds:
            status.update(f"Waiting for answers that are under way (at most {drain_seconds:g} s) …")
            _drain(settings, drain_seconds, console)
            status.update("Stopping …")
        return _stop(settings, Supervisor(settings))


def _drain(settings: Settings, seconds: float, console: Console) -> None:
    """Whatever answers takes on nothing new, and is waited for. One that does not answer is not."""
    headers = {"Authorization": f"Bearer {load_credentials(settings.home).api_key}"}
    try:
        told = http().post(
            f"{settings.endpoint}/drain", json={"seconds": seconds}, headers=headers, timeout=seconds + 5
        )
        left = told.json()["under_way"] if told.status_code == 200 else 0
    except (httpx.HTTPError, ValueError, KeyError):
        return
    if left:
        console.print(f"{left} answers had not ended after {seconds:g} s and are cut off.")


def _stop(settings: Settings, supervisor: Supervisor) -> bool:
    was_running = supervisor.running
    if was_running:
        supervisor.shut_down()
        wait_until(lambda: not supervisor.running, 90)
    left = marked(settings)
    end(left)
    return was_running or bool(left)


def _node_choices(choices: Choices) -> tuple[Any, ...]:
    """The choices that need new processes; a changed profile is only deployed."""
    return choices.listen, choices.port_offset, choices.interface


def _fetch(settings: Settings, console: Console) -> None:
    fetch_profile(settings.profile.on(None), settings.catalog, settings.home, console)
    if settings.redis_url is None and redis.find(settings.home) is None:
        with console.status("Fetching Redis Stack (53 MB) …"):
            redis.fetch(settings.home)


def _start_services(settings: Settings, credentials: Credentials, supervisor: Supervisor) -> None:
    home = settings.home
    if settings.database_url is None:
        postgres.prepare(home, credentials.postgres_password)
    if supervisor.running:
        supervisor.revive()
    else:
        programs: list[Program] = []
        if settings.redis_url is None:
            binary = redis.find(home)
            assert binary is not None
            config = redis.write_config(home, binary, credentials.redis_password)
            programs.append(Program("redis", [str(binary.server), str(config)], priority=10))
        if settings.database_url is None:
            programs.append(Program("postgres", postgres.command(home), 10, user=postgres.system_user()))
        programs.append(ray_program(settings))
        supervisor.start(programs, credentials)
    environment = settings.environment(credentials)
    _wait_for_redis(environment["GROUPQWEN_REDIS_URL"], supervisor, embedded=settings.redis_url is None)
    asyncio.run(_wait_for_postgres(settings, credentials, supervisor))
    _wait_for_ray(settings, credentials)


def _wait_for_ray(settings: Settings, credentials: Credentials) -> None:
    if not wait_for_ray(settings, credentials):
        last = Supervisor(settings).log_tail("ray", 1)
        raise StartProblem(f"Ray did not start: {last} (see {settings.home.logs}/ray.log)")


def _wait_for_redis(url: str, supervisor: Supervisor, *, embedded: bool) -> None:
    client = Redis.from_url(url, socket_timeout=2)
    began = time.monotonic()
    usual = patience = REDIS_SECONDS if embedded else REDIS_SECONDS / 4
    while True:
        try:
            client.execute_command("FT._LIST")  # type: ignore[no-untyped-call]
            return
        except BusyLoadingError as error:
            # It is there, and reads what it has kept: a full cache's vectors take their time.
            reason, patience = str(error), LOADING_SECONDS
        except RedisError as error:
            reason, patience = str(error), usual
        if time.monotonic() - began > patience:
            raise StartProblem(
                f"Redis did not start: {supervisor.log_tail('redis', 1)}"
                if embedded
                else f"GROUPQWEN_REDIS_URL does not name a Redis with search that answers: {reason}"
            )
        time.sleep(0.1)


async def _wait_for_postgres(settings: Settings, credentials: Credentials, supervisor: Supervisor) -> None:
    embedded = settings.database_url is None
    until = time.monotonic() + (20 if embedded else 5)
    url = settings.database_url or postgres.url(settings.home, credentials.postgres_password, "postgres")
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=5)
            break
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            if time.monotonic() > until:
                raise StartProblem(
                    f"PostgreSQL did not start: {supervisor.log_tail('postgres', 1)}"
                    if embedded
                    else f"GROUPQWEN_DATABASE_URL does not name a PostgreSQL that answers: {error}"
                ) from error
            await asyncio.sleep(0.1)
    try:
        if embedded and not await connection.fetchval(
            "select 1 from pg_database where datname = $1", postgres.DATABASE
        ):
            await connection.execute(f'create database "{postgres.DATABASE}"')
    finally:
        await connection.close()
