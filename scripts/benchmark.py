"""Measurements beside what people would otherwise use: `python scripts/benchmark.py COMMAND --help`."""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))

import typer

from configs.catalog import load_catalog
from configs.home import home

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command()
def engine(
    variant: Annotated[
        str, typer.Option(help="A llama.cpp variant whose weights are here.")
    ] = "qwen2.5-coder-1.5b",
    threads: Annotated[int, typer.Option(help="Threads, the same for all servers.")] = 2,
    context: Annotated[int, typer.Option(help="Tokens of context, the same for all servers.")] = 8192,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; medians are taken over them.")] = 3,
    tokens: Annotated[int, typer.Option(help="Length of each answer.")] = 64,
    concurrency: Annotated[str, typer.Option(help="Requests at once, one figure or several.")] = "1,4,8",
) -> None:
    """Our llama.cpp variant beside llama_cpp.server and xllamacpp: tokens/s, first token, memory."""
    from benchmarks.engine import main

    source = load_catalog().variant(variant).source
    main(
        home().model_file(variant, source),
        threads,
        context,
        rounds,
        tokens,
        [int(n) for n in concurrency.split(",")],
    )


@app.command()
def overhead(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of requests to each side.")] = 40,
) -> None:
    """What Gateway and Router add to the time to the first token, beside LiteLLM's proxy; and a cache hit."""
    from benchmarks.overhead import main

    main(rounds)


@app.command()
def residency(
    live: Annotated[bool, typer.Option(help="Play the trace on a real group too, started for it.")] = True,
) -> None:
    """How often variants are reloaded and how long requests wait, beside least-recently-used and a fixed TTL."""
    from benchmarks.residency import main

    main(live)


@app.command()
def swaps(
    profile: Annotated[
        str,
        typer.Option(help="A profile with variants that are swapped, by name or as a path; `rtx5090` on a card."),
    ] = "tests/profiles/one-of-three.yaml",
    rounds: Annotated[int, typer.Option(help="Times that each goes out and comes back.")] = 5,
) -> None:
    """Seconds and memory of bringing variants in and sending them out: vLLM's sleep and wake on a card."""
    from benchmarks.swaps import main

    main(profile, rounds)


@app.command()
def routing() -> None:
    """Learned routing beside length, the reference rules and LiteLLM's, on public outcome logs
    (docs/EVALUATION.md)."""
    from benchmarks.routing import main

    main()


if __name__ == "__main__":
    app()
