"""The `groupqwen` command: start, stop, look, chat."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, overload

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table

from configs.catalog import load_catalog
from configs.document import ConfigError
from configs.fitting import fit, this_machine
from configs.home import home
from configs.planner import PlanRefused, make_plans
from configs.profile import load_profile, profile_names
from groupqwen import __version__, caches, keys, routers
from groupqwen.client import ask_first_question, endpoint_and_key, get, print_answer, print_route
from groupqwen.downloads import DownloadError, is_ready
from groupqwen.logs import logs
from groupqwen.models import fetch_profile
from groupqwen.plans import show_plan
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import LogLevel, trace_choice
from groupqwen.top.command import top
from groupqwen.training.commands import adapters, data, train
from groupqwen.usage import trace as trace_request
from groupqwen.usage import usage

app = typer.Typer(
    name="groupqwen",
    help="One OpenAI-compatible endpoint over a group of Qwen models on your own hardware.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
models_app = typer.Typer(help="The catalog: what there is, what is downloaded.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(routers.app, name="router")
app.add_typer(keys.app, name="keys")
app.add_typer(caches.app, name="cache")
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(adapters, name="adapters")
app.command()(usage)
app.command("trace")(trace_request)
app.command()(logs)
app.command()(top)
console = Console()
errors = Console(stderr=True)

ProfileOption = Annotated[
    str, typer.Option("--profile", help="Which models and how: a name of configs/profiles, or a YAML file.")
]
CatalogOption = Annotated[
    Path | None, typer.Option("--catalog", help="A catalog of your own, in place of configs/models.yaml.")
]
LogLevelOption = Annotated[
    LogLevel, typer.Option(envvar="GROUPQWEN_LOG_LEVEL", help="What goes into the logs: see `groupqwen logs`.")
]
TraceOption = Annotated[
    str,
    typer.Option(
        envvar="GROUPQWEN_TRACE",
        help="OpenTelemetry spans of requests: `file` (beside the logs), or the URL of an OTLP/HTTP collector.",
    ),
]
TraceShareOption = Annotated[float, typer.Option(min=0.0001, max=1, help="Of all requests that are traced.")]
TraceWordsOption = Annotated[bool, typer.Option(help="Also questions and answers, in the spans.")]


@app.command()
def up(
    profile: ProfileOption = "cpu",
    catalog: CatalogOption = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Also listen on this address, say your Tailscale one. Keys are always required."),
    ] = None,
    port_offset: Annotated[
        int, typer.Option(help="Move every port by this number, to run beside something else.")
    ] = 0,
    interface: Annotated[
        str,
        typer.Option(
            help="This machine's address for others of the group, say its Tailscale one; see `groupqwen join`."
        ),
    ] = "127.0.0.1",
    log_level: LogLevelOption = "warning",
    trace: TraceOption = "off",
    trace_share: TraceShareOption = 1.0,
    trace_words: TraceWordsOption = False,
    ask: Annotated[bool, typer.Option(help="Ask one question at the end.")] = True,
) -> None:
    """Start everything, wait until it answers, ask one question. Safe to run again at any time."""
    from groupqwen.stack.lifecycle import Choices, settings_for
    from groupqwen.stack.lifecycle import up as bring_up

    started = time.monotonic()
    traced = trace_choice(trace, trace_share, trace_words)
    choices = Choices(_wherever(profile), _wherever(catalog), listen, port_offset, interface, log_level, traced)
    settings = settings_for(home(), choices)
    credentials = bring_up(settings, choices, console)
    console.print(f"Ready in {time.monotonic() - started:.0f} s.")
    if ask:
        ask_first_question(settings.endpoint, credentials.api_key, console)
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("Endpoint", settings.endpoint)
    if listen:
        table.add_row("", f"http://{listen}:{settings.ports.http}/v1")
    # (What is not a terminal may be a log.)
    table.add_row("API key", credentials.api_key if console.is_terminal else "`groupqwen status` shows it")
    table.add_row("API docs", settings.endpoint.removesuffix("/v1") + "/docs")
    table.add_row("Ray dashboard", f"{settings.dashboard}  (token: {settings.home.run / 'ray-token'})")
    table.add_row("Stop", "bash scripts/down.sh")
    console.print(Panel(table, title="GroupQwen", expand=False))


@app.command()
def deploy(
    profile: Annotated[str | None, typer.Option(help="Another profile; unset: the one that serves.")] = None,
    catalog: CatalogOption = None,
    canary: Annotated[
        str | None,
        typer.Option(help="Give new versions of variants this share of their requests first, say 10%."),
    ] = None,
    watch: Annotated[float, typer.Option(min=1, help="Seconds for which a canary is watched.")] = 60,
    log_level: Annotated[LogLevel | None, typer.Option(help="Unset: as before.")] = None,
    trace: Annotated[str | None, typer.Option(help="As of `up`, or `off`; unset: as before.")] = None,
    trace_share: TraceShareOption = 1.0,
    trace_words: TraceWordsOption = False,
) -> None:
    """Bring changed configuration or code into service: no request is lost, and what fails is taken back.

    A variant that is kept always and cannot be loaded, or fails its warm-up question, does not replace the one
    that works; nor does a canary that fails requests. (The old versions answer those.) One that is swapped is
    loaded when it is asked for, or tried as a canary. A wrong configuration is refused at once.
    """
    from groupqwen.stack.lifecycle import change, remembered, settings_for
    from groupqwen.stack.rollout import CanaryPlan

    now = remembered(home())
    if now is None:
        raise StartProblem("nothing has been started here yet: run `bash scripts/up.sh`")
    choices = replace(now, profile=_wherever(profile) or now.profile, catalog=_wherever(catalog) or now.catalog)
    traced = now.trace if trace is None else trace_choice(trace, trace_share, trace_words)
    choices = replace(choices, log_level=log_level or now.log_level, trace=traced)
    plan = CanaryPlan(_share(canary), watch) if canary is not None else None
    started = time.monotonic()
    told = change(settings_for(home(), choices), choices, plan, console)
    if told:
        console.print(f"{told[0].upper()}{told[1:]}.")
    console.print(f"It serves, after {time.monotonic() - started:.0f} s.")


def _share(text: str) -> float:
    """`10%` or `0.1`."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is no share: say 10% or 0.1", param_hint="--canary")
    return share


@overload
def _wherever(path: str | Path) -> str: ...
@overload
def _wherever(path: None) -> None: ...
def _wherever(path: str | Path | None) -> str | None:
    """A file's path as it is known from any folder; a profile's name as it is."""
    if path is None or not str(path).endswith(".yaml"):
        return None if path is None else str(path)
    return str(Path(path).absolute())


@app.command()
def down(
    drain: Annotated[
        float, typer.Option(min=0, max=300, help="Seconds that answers under way are given; 0: none.")
    ] = 30,
) -> None:
    """Stop exactly what `up` has started; answers under way may end. Models, cache, ledger and keys stay."""
    from groupqwen.stack.lifecycle import Choices, remembered, settings_for
    from groupqwen.stack.lifecycle import down as bring_down

    choices = remembered(home()) or Choices()
    try:
        settings = settings_for(home(), choices)
    except ConfigError:
        # What runs was started with a profile that is gone or wrong by now; it must be stoppable all the same.
        settings = settings_for(home(), replace(choices, profile="cpu", catalog=None))
    if bring_down(settings, console, drain):
        console.print("Stopped. Your data is in " + str(home().root))
    else:
        console.print("Nothing was running.")


@app.command()
def join(
    head: Annotated[str, typer.Option(help="The head's address (`up.sh --interface`), with :PORT if not 6380.")],
    device: Annotated[str, typer.Option(help="Which of the profile's `nodes` this machine is.")] = "macbook",
    profile: ProfileOption = "rtx5090",
    interface: Annotated[
        str | None, typer.Option(help="This machine's address; unset: the one that reaches the head.")
    ] = None,
) -> None:
    """Let this machine serve its variants for a head. Ends with Ctrl-C; joins again by itself after a sleep.

    `groupqwen invite` on the head prints the whole command, with the token that is needed the first time.
    """
    from groupqwen.join import join as join_head

    join_head(head, device, _wherever(profile), interface, console)


@app.command()
def invite() -> None:
    """What another machine needs to join this one."""
    from groupqwen.stack.credentials import load_credentials
    from groupqwen.stack.lifecycle import remembered, settings_for

    choices = remembered(home())
    if choices is None:
        raise StartProblem("nothing has been started here yet: run `bash scripts/up.sh --interface ADDRESS`")
    settings = settings_for(home(), choices)
    if settings.interface == "127.0.0.1":
        errors.print(
            "[yellow]The head is on loopback, where no other machine reaches it: start it with "
            "`bash scripts/up.sh --interface ADDRESS`, say its Tailscale address.[/yellow]"
        )
    known = list(settings.profile.nodes)
    nodes = ", ".join(known) or "none: give the profile some under `nodes`"
    console.print(f"This profile knows these machines: {nodes}. On one of them, in a clone of this version:")
    console.print(
        f"GROUPQWEN_JOIN_TOKEN={load_credentials(home()).ray_token} bash scripts/join.sh "
        f"--head {settings.interface}:{settings.ports.gcs} --device {known[0] if known else 'macbook'} "
        f"--profile {choices.profile}",
        soft_wrap=True,
    )


@app.command()
def status() -> None:
    """What runs, how it is, and how to reach it. Ends with 1 where no question would be answered."""
    endpoint, key = endpoint_and_key()
    health = get(endpoint, key, "/health", accept=(200, 503)).json()
    table = Table("part", "state", "details", title=f"GroupQwen: {health['status']}", expand=False)
    for part, state in (health.get("parts") or {}).items():
        if part != "variants":
            said = {name: value for name, value in state.items() if name not in ("ok", "last_error") and value}
            details = ", ".join(f"{name}={value}" for name, value in said.items())
            if last := state.get("last_error"):
                at = time.strftime("%H:%M:%S", time.localtime(last["at"]))
                details += f"{', ' if details else ''}last error at {at}: {last['error']}"
            table.add_row(part, "ok" if state["ok"] else "[red]away[/red]", details)
    for model in get(endpoint, key, "/models").json()["data"][1:]:
        live = model["status"]
        shown = {"active": "active", "waiting": "waiting", "memory_mb": "MiB"}
        details = ", ".join(f"{live[key]} {unit}" for key, unit in shown.items() if key in live)
        table.add_row(model["id"], live["state"], details)
    console.print(table)
    console.print(f"Endpoint  {endpoint}\nAPI key   {key}")
    if health["status"] == "down":
        raise typer.Exit(1)


@app.command()
def chat(
    question: Annotated[list[str] | None, typer.Argument(help="What to ask; nothing: a conversation.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a level, a variant or an alias.")] = "auto",
    explain: Annotated[bool, typer.Option(help="Show who answered and why.")] = True,
) -> None:
    """Ask a question, or talk."""
    endpoint, key = endpoint_and_key()
    history: list[dict[str, str]] = []
    asked = " ".join(question or [])
    while True:
        if not asked:
            try:
                asked = console.input("[bold]> [/bold]").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if not asked:
                return
        history.append({"role": "user", "content": asked})
        history.append(
            {"role": "assistant", "content": print_answer(endpoint, key, model, history, explain, console)}
        )
        if question:
            return
        asked = ""


@app.command()
def route(
    question: Annotated[str, typer.Argument(help="What would be asked.")],
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a level, or a variant.")] = "auto",
) -> None:
    """Who would answer a question, and why the others would not. Nothing is generated."""
    endpoint, key = endpoint_and_key()
    print_route(endpoint, key, model, question, console)


@app.command()
def plan(
    profile: ProfileOption = "cpu",
    write: Annotated[
        bool,
        typer.Option("--write", help="Write serve_config.yaml and configs/serve/ from the plans of all profiles."),
    ] = False,
) -> None:
    """What a profile takes of its machine's memory, variant by variant, before anything is started.

    A plan that cannot hold is refused, with the numbers and the nearest plan that does.
    """
    catalog = load_catalog()
    if write:
        from groupqwen.generated import write as write_files
        from groupqwen.serve_files import serve_files

        written = write_files(serve_files(catalog))
        for path in written:
            console.print(f"wrote {path.relative_to(Path(__file__).parent.parent)}")
        if not written:
            console.print("All files are current.")
        return
    chosen = load_profile(profile, catalog)
    hardware = this_machine(chosen.machine.accelerator)
    fitted, changes = fit(chosen, catalog, hardware)
    try:
        for one in make_plans(fitted, catalog, hardware.memory_mb):
            show_plan(one, console)
        if changes:
            console.print(f"To fit this machine: {'; '.join(changes)}.")
    except PlanRefused as refused:
        if refused.nearest is not None:
            console.print(f"The nearest plan that fits ({'; '.join(refused.changes)}):")
            show_plan(refused.nearest, console)
        raise


@app.command()
def version() -> None:
    """The version."""
    console.print(__version__)


@models_app.command("list")
def models_list() -> None:
    """Every variant of the catalog."""
    catalog = load_catalog()
    table = Table(
        Column("variant", no_wrap=True),
        "title",
        "engine",
        "quantization",
        "weights",
        "context",
        "capabilities",
        "here",
    )
    for name, spec in catalog.variants.items():
        ready = is_ready(spec.source, home().model_file(name, spec.source))
        size = f"{spec.source.bytes / 2**30:.2f} GiB" if spec.source.bytes else "-"
        table.add_row(
            name,
            spec.title,
            spec.engine,
            spec.quantization,
            size,
            str(spec.context),
            " ".join(sorted(spec.capabilities)),
            "yes" if ready else "",
        )
    console.print(table)
    console.print(f"Profiles: {', '.join(profile_names())}")


@models_app.command("pull")
def models_pull(profile: ProfileOption = "cpu") -> None:
    """Download a profile's weights: resumed where it stopped, verified, with progress."""
    catalog = load_catalog()
    here = home()
    here.make()
    chosen = load_profile(profile, catalog)
    # What `up` would serve here: the files that suit this machine, and of the nodes none.
    fitted, _ = fit(chosen, catalog, this_machine(chosen.machine.accelerator))
    fetch_profile(fitted.on(None), fitted.serving(catalog), here, console)
    console.print("All weights are there.")


def main() -> None:
    """The entry point: problems are one line on standard error and exit status 1."""
    try:
        app()
    except (StartProblem, ConfigError, DownloadError, ValueError) as error:
        errors.print(f"[red]groupqwen:[/red] {error}", markup=True, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
