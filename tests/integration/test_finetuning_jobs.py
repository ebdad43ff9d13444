"""What fine-tuning jobs go through on the real stack: they wait, are cancelled, die, are found again, borrow
memory, and leave what is tidied. What a job's process does is a stand-in's
(tests/deployments/finetuning/stand_in.py); it is started, followed, stopped and found again as a real one
is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import psutil

from configs.finetuning import FinetuningRules
from deployments.finetuning.retention import DAY_SECONDS, tidy
from deployments.finetuning.store import FinetuningStore
from groupqwen.stack.deploy import http
from groupqwen.stack.supervisor import Supervisor
from tests.configs.grafana.exported import ours
from tests.integration.conftest import LARGE, SMALL, Stack, wait_for
from tests.integration.exposition import scraped
from tests.integration.training import (
    LONG,
    QUICK,
    about,
    begin,
    cancel,
    lines_of,
    told,
    wait_for_end,
    wait_for_step,
    written,
)

STAND_IN = "tests.deployments.finetuning.stand_in"


def processes(stack: Stack, job: str) -> list[psutil.Process]:
    return [process for process in stack.processes(STAND_IN) if job in " ".join(process.cmdline())]


def python_of(stack: Stack, job: str) -> psutil.Process:
    """The job's own process, not the shell that has started it."""
    return next(process for process in processes(stack, job) if "/sh" not in process.cmdline()[0])


def state(stack: Stack, variant: str) -> str:
    return str(stack.status(variant)["state"])


# -- the queue, and stopping -----------------------------------------------------------------------


def test_jobs_wait_in_order_and_are_cancelled_at_once_or_at_their_next_step(group: Stack) -> None:
    running, second, third = (begin(group, **LONG) for _ in range(3))
    wait_for_step(group, running, 3)
    assert [about(group, job)["place"] for job in (running, second, third)] == [None, 0, 1]
    gone = group.post(f"/finetune/{second}/cancel", {}).json()
    assert gone["state"] == "cancelled"
    assert about(group, third)["place"] == 0
    assert group.post(f"/finetune/{second}/cancel", {}).status_code == 400
    assert group.post(f"/finetune/{third}/cancel", {}).json()["state"] == "cancelled"
    told_to = group.post(f"/finetune/{running}/cancel", {}).json()
    assert told_to["cancelling"] is True
    stopped = wait_for_end(group, running)
    assert (stopped["state"], stopped["error"]) == ("cancelled", None)
    assert processes(group, running) == []
    assert [event for event, _ in told(group, second)] == ["end"]


def test_one_that_does_not_hear_is_ended_and_goes_on_when_it_is_wished(group: Stack) -> None:
    job = begin(group, **{**LONG, "deaf": True})
    wait_for_step(group, job, 4)
    assert cancel(group, job)["state"] == "cancelled"
    wait_for(lambda: not processes(group, job), 40, "it still runs")
    at = about(group, job)["progress"]
    assert at["checkpoint"] >= 4
    assert group.post(f"/finetune/{job}/resume", {}).json()["state"] == "queued"
    wait_for(lambda: about(group, job)["state"] == "running", 60, lambda: f"{about(group, job)}")
    wait_for_step(group, job, at["step"] + 2)
    assert group.post(f"/finetune/{job}/resume", {}).status_code == 400, "it runs"
    steps = [event.data["step"] for event in written(group, job) if event.kind == "progress"]
    assert steps[steps.index(at["checkpoint"] + 1) :], "it went on from its checkpoint"
    assert steps.count(1) == 1
    cancel(group, job)


def test_a_job_asks_the_group_with_a_key_that_goes_with_it(group: Stack) -> None:
    job = begin(group, **LONG)
    wait_for_step(group, job, 2)

    def keys() -> list[dict[str, Any]]:
        return [key for key in group.get("/keys").json()["keys"] if key["job"] == job]

    (key,) = keys()
    assert (key["scopes"], key["remote"], key["limits"]["concurrent"]) == (["chat"], False, 2)
    secret = python_of(group, job).environ()["GROUPQWEN_JUDGE_KEY"]
    assert secret != group.key
    client = group.client(api_key=secret)
    assert {model.id for model in client.models.list()} >= {SMALL}
    messages: Any = [{"role": "user", "content": "Say hi."}]
    assert client.chat.completions.create(model=SMALL, messages=messages, max_tokens=2).choices
    for refused in ("/files", "/finetune", "/keys", "/adapters"):
        headers = {"authorization": f"Bearer {secret}"}
        assert http().get(group.url + refused, headers=headers).status_code == 403
    dashboard = group.settings.dashboard
    token = {"authorization": f"Bearer {group.credentials.ray_token}"}
    shown = http().get(f"{dashboard}/api/jobs/", headers=token)
    assert shown.status_code == 200 and job in shown.text and secret not in shown.text
    folder = group.settings.home.training / "jobs" / job
    assert not [path for path in folder.rglob("*") if path.is_file() and secret in path.read_text()]
    python_of(group, job).kill()
    cancel(group, job)
    wait_for(lambda: not keys(), 40, lambda: f"{keys()}")

    def refuses() -> bool:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return True
        return False

    wait_for(refuses, 20, "the key of a job that has ended still counts")


# -- what dies ---------------------------------------------------------------------------------------


def test_a_job_goes_on_while_the_parts_around_it_are_away_and_no_event_is_lost(group: Stack) -> None:
    job = begin(group, **LONG)
    wait_for_step(group, job, 3)
    pid = python_of(group, job).pid
    services = Supervisor(group.settings)._rpc().supervisor
    services.stopProcess("postgres")
    try:
        group.replica("Finetuning").kill()
        group.replica("Residency").kill()
        before = len(written(group, job))
        wait_for(lambda: len(written(group, job)) > before + 20, 60, "the job does not go on")
        assert group.get(f"/finetune/{job}").status_code == 503
        body = {"base": SMALL, "name": "a", "training_file": "file-" + "0" * 32}
        assert group.post("/finetune/start", body).status_code == 503
    finally:
        services.startProcess("postgres")
    group.wait_until_well()
    # Who keeps the memory is one that knows nothing of the job: it is told again.
    wait_for(lambda: lent(group) == 1200, 60, "it is not lent again")
    assert python_of(group, job).pid == pid
    assert cancel(group, job)["attempt"] == 1
    there = written(group, job)
    assert [event.seq for event in there] == list(range(len(there)))
    assert [kind for kind, _ in told(group, job)] == [*(event.kind for event in there), "end"]


def test_a_process_that_is_killed_goes_on_from_its_checkpoint(group: Stack) -> None:
    job = begin(group, steps=30, pause=0.1)
    wait_for_step(group, job, 5)
    python_of(group, job).kill()
    done = wait_for_end(group, job)
    assert (done["state"], done["attempt"]) == ("succeeded", 2)
    assert done["curve"]["training"] == [[step, 2 / step] for step in range(1, 31)], "as if nothing had been"
    assert any("its process died" in data["said"] for kind, data in told(group, job) if kind == "log")


def test_one_that_dies_again_and_again_fails_and_one_that_fails_is_not_repeated(group: Stack) -> None:
    job = begin(group, steps=9, pause=0.02, die_at=3, deaths=99)
    dead = wait_for_end(group, job, 120)
    assert (dead["state"], dead["attempt"]) == ("failed", 4)
    assert "died 4 times in a row" in dead["error"]
    failed = wait_for_end(group, begin(group, steps=9, pause=0.02, fail_at=2))
    assert (failed["state"], failed["attempt"], failed["error"]) == ("failed", 1, "the loss is not a number")
    shown = group.client().fine_tuning.jobs.retrieve(failed["id"])
    assert shown.error is not None and shown.error.message == "the loss is not a number"


# -- memory ------------------------------------------------------------------------------------------


def test_variants_leave_for_a_job_and_come_back_when_it_ends(group: Stack) -> None:
    """The small one stays and answers. (And what the dashboards show of a job is there while it runs.)"""
    for variant in (SMALL, LARGE):
        assert group.post(f"/models/{variant}/load", {}).status_code == 200
    job = begin(group, **LONG)
    wait_for_step(group, job, 2)
    assert "1200 MiB were given to it by Residency" in about(group, job)["note"]
    assert (state(group, SMALL), state(group, LARGE), lent(group)) == ("awake", "absent", 1200)
    began = time.monotonic()
    answer = group.ask("Hi", model=LARGE, max_tokens=2)
    assert answer.status_code == 200 and answer.json()["metadata"]["variant"] != LARGE
    assert time.monotonic() - began < 15, "nobody waits for what cannot come"
    assert group.post(f"/models/{LARGE}/load", {}).status_code == 503
    the_dashboards_have_what_they_show(group)
    python_of(group, job).kill()
    cancel(group, job)
    assert lent(group) == 0
    wait_for(lambda: state(group, LARGE) == "awake", 60, lambda: state(group, LARGE))


def lent(stack: Stack) -> int:
    """MiB."""
    return int(stack.health().get("parts", {}).get("residency", {}).get("lent_mb", -1))


def the_dashboards_have_what_they_show(stack: Stack) -> None:
    wanted = {name: labels for name, labels in ours().items() if name.startswith("ray_groupqwen_finetuning_")}
    assert len(wanted) == 6
    seen: dict[str, set[str]] = {}

    def all_of_it() -> bool:
        seen.update(scraped(stack))
        return wanted.keys() <= seen.keys()

    wait_for(all_of_it, 60, lambda: f"{wanted.keys() - seen.keys()}")
    assert {name for name, labels in wanted.items() if not labels <= seen[name]} == set()
    parts = stack.health()["parts"]["finetuning"]
    assert (parts["ok"], parts["running"]) == (True, 1), parts


# -- what has ended long ago -------------------------------------------------------------------------


def test_what_old_jobs_have_left_goes(group: Stack) -> None:
    oldest, *_, done = (begin(group, **QUICK) for _ in range(4))
    stopped = begin(group, **LONG)
    assert wait_for_end(group, done)["state"] == "succeeded"
    wait_for_step(group, stopped, 3)
    cancel(group, stopped)
    before = told(group, done)
    jobs = group.settings.home.training / "jobs"
    # The profile says that three stay.
    wait_for(lambda: not (jobs / oldest / "dataset").exists(), 60, "nobody tidies")
    assert (jobs / done / "dataset").is_dir()

    async def tidied(keep_jobs: int, days: float) -> set[str]:
        store = FinetuningStore(group.settings.environment(group.credentials)["GROUPQWEN_DATABASE_URL"])
        await store.connect()
        try:
            rules, at = FinetuningRules(keep_jobs=keep_jobs, keep_days=30), time.time() + days * DAY_SECONDS
            return set(await tidy(store, rules, group.settings.home, at))
        finally:
            await store.close()

    assert not {done, stopped} & asyncio.run(tidied(1, 0))
    assert {done, stopped} & asyncio.run(tidied(1, 31)) == {stopped}
    assert (jobs / done / "dataset").is_dir() and not (jobs / stopped / "dataset").exists()
    refused = group.post(f"/finetune/{stopped}/resume", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "job_cleared")
    assert done in asyncio.run(tidied(0, 0))
    assert not (jobs / done / "dataset").exists()
    assert [event.kind for event in written(group, done)].count("progress") == QUICK["steps"], "on disk it stays"
    kept = told(group, done)
    assert about(group, done)["curve"] == {"training": [], "validation": []}
    assert kept == [one for one in before if one[0] not in ("progress", "evaluation", "checkpoint")]
    assert "a stand-in" in group.get(f"/finetune/{done}/logs").text


# -- the commands ------------------------------------------------------------------------------------


def test_the_commands_do_the_same(group: Stack, tmp_path: Any) -> None:
    (tmp_path / "chats.jsonl").write_bytes(lines_of(QUICK))
    arguments = ("--base", SMALL, "--name", "by-command", "--set", "epochs=1")
    done = group.run_cli("train", "start", str(tmp_path / "chats.jsonl"), *arguments, "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    job = done.stdout.split(":")[0].strip()
    assert f"{job}: succeeded" in done.stdout and "The job runs" in done.stdout
    assert job in group.run_cli("train", "list", COLUMNS="200").stdout
    shown = group.run_cli("train", "show", job, COLUMNS="200").stdout
    assert "4/4" in shown and "training loss" in shown
    assert "a stand-in" in group.run_cli("train", "logs", job).stdout
    refused = group.run_cli("train", "cancel", job, COLUMNS="400")
    assert refused.returncode == 1 and "has ended" in refused.stderr
    dataset = group.settings.home.training / "datasets" / "of-a-test"
    dataset.mkdir(parents=True, exist_ok=True)
    (dataset / "train.jsonl").write_bytes(lines_of(LONG))
    started = group.run_cli("train", "start", "of-a-test", *arguments)
    job = started.stdout.split(":")[0].strip()
    assert about(group, job)["dataset"] == "of-a-test"
    assert group.run_cli("train", "cancel", job).returncode == 0
    wait_for_end(group, job)
    assert group.run_cli("train", "resume", job).stdout.strip() == f"{job}: queued"
    cancel(group, job)
