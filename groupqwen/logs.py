"""`groupqwen logs`: the lines of one request, or what went wrong lately, from every log there is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from configs.home import Home, home
from groupqwen.log_files import LogFile, lines_of_nodes, local_files
from groupqwen.log_lines import LEVELS, Line
from groupqwen.stack.credentials import load_credentials
from groupqwen.stack.lifecycle import remembered, settings_for

LOOK_SECONDS = 0.5
AGAIN_SECONDS = 5.0
"""New files are looked for so often."""

RAYS_OWN = ("python-core-", "monitor", "log_monitor", "dashboard", "runtime_env", "gcs_server", "raylet", "ray_")
"""Files of Ray's processes: much of what they warn of is nobody's concern."""

console = Console()
_STYLES = {30: "yellow", 40: "red"}


def logs(
    request: Annotated[str | None, typer.Option(help="Of one request: `x-request-id` of an answer.")] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="At least so grave. Unset: warning; of one request: everything."),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many lines, the newest.")] = 100,
    ray: Annotated[bool, typer.Option(help="Also what Ray's own processes say below an error.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends it.")] = False,
) -> None:
    """What the parts say: Serve's on every machine that is there, Ray's, Redis' and PostgreSQL's."""
    least = LEVELS[level or ("debug" if request else "warning")]

    def wanted(line: Line) -> bool:
        if line.level < least or (not ray and line.level < LEVELS["error"] and line.part.startswith(RAYS_OWN)):
            return False
        return request is None or line.concerns(request)

    own = home()
    files: dict[Path, LogFile] = {}
    shown = newest((*_new_lines(own, files), *_elsewhere(own)), wanted, last)
    for line in shown:
        _print(line)
    if not shown and not follow:
        console.print("No line is about it." if request else "No line is so grave.")
    if follow:
        try:
            _follow(own, files, wanted)
        except KeyboardInterrupt:
            return


def newest(lines: Iterable[Line], wanted: Callable[[Line], bool], count: int) -> list[Line]:
    """Of those that are wanted the newest, the oldest of them first. What two files hold counts once."""
    found = sorted({line: None for line in lines if wanted(line)}, key=lambda line: line.at)
    return list(deque(found, count))


def _new_lines(own: Home, files: dict[Path, LogFile]) -> Iterator[Line]:
    for path in local_files(own):
        files.setdefault(path, LogFile(path))
    for file in files.values():
        yield from file.lines()


def _elsewhere(own: Home) -> Iterator[Line]:
    choices = remembered(own)
    if choices is not None:
        yield from lines_of_nodes(settings_for(own, choices), load_credentials(own))


def _follow(own: Home, files: dict[Path, LogFile], wanted: Callable[[Line], bool]) -> None:
    looked = time.monotonic()
    while True:
        time.sleep(LOOK_SECONDS)
        if time.monotonic() - looked > AGAIN_SECONDS:
            looked, found = time.monotonic(), list(_new_lines(own, files))
        else:
            found = [line for file in files.values() for line in file.lines()]
        for line in sorted(filter(wanted, found), key=lambda line: line.at):
            _print(line)


def _print(line: Line) -> None:
    at = time.strftime("%m-%d %H:%M:%S", time.localtime(line.at)) + f".{int(line.at % 1 * 1e3):03}"
    style = _STYLES.get(line.level, "dim" if line.level < 20 else "default")
    name = next((name for name, value in LEVELS.items() if value >= line.level), "error")
    request = f" [cyan]{escape(line.request)}[/cyan]" if line.request else ""
    head = f"[dim]{at}[/dim] [{style}]{name:7}[/{style}] [bold]{escape(line.part)}[/bold]{request}"
    console.print(f"{head} {escape(line.text)}", highlight=False, soft_wrap=True)
    for more in line.more:
        console.print(f"    [dim]{escape(more)}[/dim]", highlight=False, soft_wrap=True)
