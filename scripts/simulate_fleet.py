"""A fleet of 1 to 1,000 nodes, simulated on recorded service times: what it answers, and what breaks first.

`run` needs nothing but the recording in benchmarks/data. `record` makes a new one, from a GroupQwen that runs on
this machine. Without a command it is `run`.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))

import typer

from benchmarks.fleet import NODES, Workload
from benchmarks.service_times import RECORDED, load_times
from configs.document import ConfigError

app = typer.Typer(help=__doc__, invoke_without_command=True)

TimesOption = Annotated[Path, typer.Option("--times", help="The recording of service times.")]
DEFAULT = Workload()


@app.callback()
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        run()


@app.command()
def run(
    times: TimesOption = RECORDED,
    nodes: Annotated[str, typer.Option(help="Sizes of the fleet.")] = ",".join(map(str, NODES)),
    compare_at: Annotated[int, typer.Option(help="The size at which the policies are compared.")] = 100,
    load: Annotated[
        float, typer.Option(help="Offered load, as a share of what all replicas can answer without prefix reuse.")
    ] = DEFAULT.load,
    answer_tokens: Annotated[float, typer.Option(help="Mean length of an answer.")] = DEFAULT.answer_tokens,
    faster: Annotated[
        float, typer.Option(help="Variants this many times as fast as recorded: a guess at other hardware.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every number here.")] = None,
) -> None:
    """Simulate fleets of several sizes, and print three tables.

    First with one process of each shared part (Gateway, Router, …), as `up` starts it; then with as many as keep
    each below 60 %; then the three ways to choose a replica, at one size.
    """
    from benchmarks.fleet_report import report

    try:
        recorded = load_times(times)
        sizes = [int(number) for number in nodes.split(",")]
        if min(sizes) < 1 or compare_at < 1:
            raise ConfigError("a fleet has one node at least")
        workload = Workload(load=load, answer_tokens=answer_tokens)
        outcomes = report(recorded, sizes, compare_at, workload, seed, faster)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(outcomes, indent=1) + "\n")


@app.command()
def record(
    times: TimesOption = RECORDED,
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement; the fastest is kept.")] = 2,
    requests: Annotated[int, typer.Option(help="Requests of each kind, to measure the shared parts with.")] = 300,
) -> None:
    """Measure service times on the GroupQwen that runs here (GROUPQWEN_HOME), and write them down.

    Takes some minutes with the profile `cpu`. Asks the endpoint, and reads the CPU times of its processes: so the
    variants must compute on processors, and Redis and PostgreSQL be the embedded ones.
    """
    from benchmarks.fleet_recording import record as record_times

    recorded = record_times(times, rounds, requests)
    typer.echo(f"Written to {times}. {recorded.disturbance.capitalize()}.")


if __name__ == "__main__":
    app()
