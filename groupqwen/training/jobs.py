"""`groupqwen train start|list|show|watch|logs|cancel|resume`: jobs of the group that runs here, by its API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from groupqwen.client import ask, endpoint_and_key, get
from groupqwen.stack.deploy import http
from groupqwen.stack.problem import StartProblem
from groupqwen.training import train

console = Console()

JobArgument = Annotated[str, typer.Argument(help="The job's id, from `groupqwen train list`.")]
UPLOAD_SECONDS = 3600
STREAM_SECONDS = 60
"""A stream of events that says nothing for so long is asked for anew."""
RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""So long an endpoint may be away while a job is watched."""


@train.command("start")
def start(
    dataset: Annotated[str, typer.Argument(help="A dataset of `groupqwen data`, or a JSONL file.")],
    base: Annotated[str, typer.Option(help="The variant to train, or `ft:<base>:<name>` to go on from.")],
    name: Annotated[str, typer.Option(help="Of the adapter: it is asked as `ft:<base>:<name>`.")],
    recipe: Annotated[str, typer.Option(help="One of configs/recipes.yaml.")] = "reference",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe, as `epochs=1`; several: say it again."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share each batch.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 42,
    evaluate: Annotated[bool, typer.Option(help="Also the checks that decide on promotion.")] = True,
    follow: Annotated[bool, typer.Option("--follow", help="Watch it.")] = False,
) -> None:
    """Have the group train: at once, or when the jobs before it have ended."""
    endpoint, key = endpoint_and_key()
    body: dict[str, Any] = {"base": base, "name": name, "recipe": recipe, "overrides": _overrides(set_ or [])}
    body |= {"workers": workers, "seed": seed, "evaluate": evaluate}
    file = Path(dataset)
    if file.is_file():
        body["training_file"] = _upload(endpoint, key, file)
    else:
        body["dataset"] = dataset
    job = ask(endpoint, key, "/finetune/start", body).json()
    console.print(f"{job['id']}: {job['model']}, {job['state']}")
    if follow:
        watch_job(endpoint, key, job["id"])
    else:
        console.print(f"groupqwen train watch {job['id']}")


def _overrides(said: list[str]) -> dict[str, Any]:
    """`epochs=1` and their like; values are JSON, or else text."""
    made: dict[str, Any] = {}
    for one in said:
        field, equals, value = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"{one!r} is no FIELD=VALUE", param_hint="--set")
        try:
            made[field] = json.loads(value)
        except ValueError:
            made[field] = value
    return made


def _upload(endpoint: str, key: str, path: Path) -> str:
    with console.status(f"Uploading {path.name} …"), path.open("rb") as file:
        try:
            answer = http().post(
                f"{endpoint}/files",
                headers={"Authorization": f"Bearer {key}"},
                data={"purpose": "fine-tune"},
                files={"file": (path.name, file, "application/jsonl")},
                timeout=UPLOAD_SECONDS,
            )
        except httpx.HTTPError as error:
            raise StartProblem(f"the upload of {path} broke off: {error!r}") from error
    if answer.status_code != 200:
        raise StartProblem(_message(answer))
    return str(answer.json()["id"])


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the endpoint answered {answer.status_code}"


@train.command("list")
def list_jobs(limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """The last jobs, the newest first."""
    endpoint, key = endpoint_and_key()
    table = Table("job", "state", "model", "step", "loss", "made")
    for job in get(endpoint, key, "/finetune", parameters={"limit": limit}).json()["jobs"]:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created"]))
        progress = job["progress"]
        loss = "" if progress["loss"] is None else f"{progress['loss']:.3f}"
        table.add_row(job["id"], _state(job), job["model"], _step(progress), loss, made)
    console.print(table)


def _state(job: dict[str, Any]) -> str:
    return "cancelling" if job["cancelling"] else str(job["state"])


def _step(progress: dict[str, Any]) -> str:
    return "" if progress["step"] is None else f"{progress['step']}/{progress['steps']}"


@train.command()
def show(job: JobArgument) -> None:
    """One job: how far it is, what it waits for, and its loss so far."""
    endpoint, key = endpoint_and_key()
    found = get(endpoint, key, f"/finetune/{job}").json()
    table = Table(show_header=False, box=None, padding=(0, 2))
    waits = "" if found["place"] is None else f" ({found['place']} before it)"
    table.add_row("job", found["id"])
    table.add_row("model", found["model"])
    table.add_row("state", f"{_state(found)}{waits}")
    progress = found["progress"]
    losses = {"loss": progress["loss"], "validation loss": progress["validation_loss"]}
    said = {
        "stage": found["stage"],
        "step": _step(progress),
        **{name: None if value is None else f"{value:.4f}" for name, value in losses.items()},
        "checkpoint": progress["checkpoint"],
        "attempts": found["attempt"] if found["attempt"] > 1 else None,
        "error": found["error"],
        "note": found["note"],
        "learned from": found["dataset"] or found["training_file"],
    }
    for name, value in said.items():
        if value not in (None, ""):
            table.add_row(name, str(value))
    for name, points in found["curve"].items():
        if len(points) > 1:
            table.add_row(f"{name} loss", _sparkline([loss for _, loss in points]))
    console.print(table)


BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def _sparkline(values: list[float]) -> str:
    """A curve in a line of text, with its first and last value."""
    shown = values[:: max(1, len(values) // WIDTH)]
    low, high = min(shown), max(shown)
    heights = [int((value - low) / ((high - low) or 1) * (len(BARS) - 1)) for value in shown]
    return f"{values[0]:.3f} {''.join(BARS[height] for height in heights)} {values[-1]:.3f}"


@train.command()
def watch(job: JobArgument) -> None:
    """Follow a job to its end. Ctrl-C ends only the watching."""
    endpoint, key = endpoint_and_key()
    get(endpoint, key, f"/finetune/{job}")
    watch_job(endpoint, key, job)


def watch_job(endpoint: str, key: str, job: str) -> None:
    """Show a job's progress to its end. Raises `typer.Exit` where it does not succeed."""
    columns = [TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    ended: dict[str, Any] = {}
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console) as bars:
        task = bars.add_task("waits", total=None, loss="")
        try:
            for kind, said in follow_events(endpoint, key, job):
                if kind == "progress":
                    loss = "" if said.get("loss") is None else f"loss {said['loss']:.4f}"
                    bars.update(task, completed=said.get("step"), total=said.get("steps"), loss=loss)
                elif kind == "stage":
                    bars.update(task, description=str(said.get("stage")))
                elif kind == "end":
                    ended = said
                elif kind != "evaluation":
                    bars.console.print(said.get("said"), markup=False, highlight=False)
        except KeyboardInterrupt:
            bars.console.print(f"It goes on: groupqwen train watch {job}")
            raise typer.Exit(130) from None
    console.print(f"{job}: {ended['state']}" + (f": {ended['error']}" if ended["error"] else ""))
    if ended["state"] != "succeeded":
        raise typer.Exit(1)


def follow_events(endpoint: str, key: str, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A job's events, each once, to its `end`: read on wherever a stream broke off. Raises `StartProblem`."""
    last, heard = -1, time.monotonic()
    while True:
        headers = {"Authorization": f"Bearer {key}", "Last-Event-ID": str(last)}
        connected, problem = False, "it answers, and does not tell of the job"
        try:
            with http().stream(
                "GET", f"{endpoint}/finetune/{job}/events", headers=headers, timeout=STREAM_SECONDS
            ) as answer:
                if answer.status_code in (401, 403, 404):
                    answer.read()
                    raise StartProblem(_message(answer))
                connected = answer.status_code == 200
                for number, kind, data in _parsed(answer.iter_lines()) if connected else ():
                    yield kind, data
                    last = last if number is None else number
                    if kind == "end":
                        return
        except httpx.HTTPError as error:
            problem = repr(error)
        if connected:
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE_SECONDS:
            raise StartProblem(f"{endpoint} is away ({problem}); the job may go on")
        time.sleep(RETRY_SECONDS)


def _parsed(lines: Iterator[str]) -> Iterator[tuple[int | None, str, dict[str, Any]]]:
    """Server-sent events: number, kind, data."""
    number, kind, data = None, "message", ""
    for line in lines:
        if not line:
            if data:
                yield number, kind, json.loads(data)
            number, kind, data = None, "message", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(": ")
            if field == "id":
                number = int(value)
            elif field == "event":
                kind = value
            elif field == "data":
                data += value


@train.command()
def logs(job: JobArgument) -> None:
    """The end of what a job's processes have printed."""
    endpoint, key = endpoint_and_key()
    console.print(get(endpoint, key, f"/finetune/{job}/logs").text, markup=False, highlight=False, soft_wrap=True)


@train.command()
def cancel(job: JobArgument) -> None:
    """Stop a job. `resume` lets it go on from where it was."""
    endpoint, key = endpoint_and_key()
    console.print(f"{job}: {_state(ask(endpoint, key, f'/finetune/{job}/cancel', {}).json())}")


@train.command()
def resume(job: JobArgument) -> None:
    """Let a job that was cancelled or has failed go on from its last checkpoint."""
    endpoint, key = endpoint_and_key()
    console.print(f"{job}: {_state(ask(endpoint, key, f'/finetune/{job}/resume', {}).json())}")
