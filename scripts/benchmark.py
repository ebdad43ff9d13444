"""Measurements beside what people would otherwise use: `python scripts/benchmark.py COMMAND --help`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))

import typer

from configs.catalog import load_catalog
from configs.home import home

app = typer.Typer(help=__doc__, no_args_is_help=True)


@contextmanager
def told(option: str) -> Iterator[None]:
    """What is wrong with a file is one line, with what to do."""
    from deployments.classifier.training import TooLittle
    from groupqwen.outcomes import OutcomesError

    try:
        yield
    except (OutcomesError, TooLittle) as error:
        raise typer.BadParameter(f"{error} (docs/EVALUATION.md says what is read)", param_hint=option) from error


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
def cache_speed(
    rounds: Annotated[int, typer.Option(min=10, help="Hits that are timed, one after the other.")] = 200,
) -> None:
    """How long a lookup takes over more and more entries; hits through the stack, beside LiteLLM's Redis cache."""
    from benchmarks.cache_speed import main

    main(rounds)


@app.command()
def ledger_load(
    minutes: Annotated[float, typer.Option(min=0.1, help="Of load; more than one, or growth is not told.")] = 10,
    clients: Annotated[int, typer.Option(min=1, help="That each ask one thing after the other.")] = 16,
    plots: Annotated[Path | None, typer.Option(help="A folder for the plot (PNG).")] = None,
) -> None:
    """Mixed traffic at saturation on a group of its own: whether the query log holds what was answered, exactly,
    whether anything grows, and what a row takes of a request's time."""
    from benchmarks.ledger_load import main

    main(minutes, clients, plots)


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
def routing(
    outcomes: Annotated[
        Path | None, typer.Option(help="Outcomes of your own instead (docs/EVALUATION.md): two models or more.")
    ] = None,
    families: Annotated[
        Path | None,
        typer.Option(help="Labelled questions of your own: CSV or JSON lines, `question`, `category`."),
    ] = None,
) -> None:
    """Learned routing beside length, the reference rules and LiteLLM's, on public outcome logs
    (docs/EVALUATION.md)."""
    from benchmarks.routing import main, own_families, own_outcomes

    with told("--outcomes" if outcomes else "--families"):
        if outcomes is not None:
            own_outcomes(outcomes)
        if families is not None:
            own_families(families)
    if outcomes is None and families is None:
        main()


@app.command()
def cascade(
    log: Annotated[
        Path | None,
        typer.Option(
            help="A log to replay (docs/EVALUATION.md); unset: the running group is asked, which takes long."
        ),
    ] = None,
    quality: Annotated[float | None, typer.Option(help="Target: right answers ÷ those of the largest.")] = None,
    accepted_wrong: Annotated[
        float | None, typer.Option(help="Target: of all questions, those that a smaller one answers wrongly.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="With which the target is to be kept.")] = 0.9,
    tiers: Annotated[str, typer.Option(help="Models, the smallest first; unset: by their mean cost.")] = "",
    plots: Annotated[Path | None, typer.Option(help="A folder for the plots (PNG).")] = None,
    live: Annotated[
        bool, typer.Option(help="Ask the running group with its cascade switched on, instead of replaying.")
    ] = False,
    questions: Annotated[int, typer.Option(help="Of the other half, the most that are asked live.")] = 150,
) -> None:
    """Small models first, larger ones where they are unsure: quality, cost and time beside what else one could
    do."""
    from benchmarks.cascade import main
    from benchmarks.cascade_live import main as run_live
    from benchmarks.cascade_live import recorded
    from configs.escalation import Target

    if quality is None and accepted_wrong is None:
        accepted_wrong = 0.05
    target = Target(quality=quality, accepted_wrong=accepted_wrong, confidence=confidence)
    path = log or recorded()
    with told("--log"):
        if live:
            run_live(path, target, questions)
        else:
            main(path, target, [name for name in tiers.split(",") if name], plots)


@app.command()
def cache(
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Pairs of your own: CSV or JSON lines, `a`, `b`, `same`, and `set` if there are several."
        ),
    ] = None,
    stream: Annotated[
        Path | None,
        typer.Option(help="A stream of your own: `query`, and `class`: requests of one class have one answer."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Orders in which the stream is replayed.")] = 10,
) -> None:
    """Which similar questions may share an answer: precision and hits on labelled pairs; and streams of requests,
    from an empty cache on, with what is promised of wrong answers (docs/EVALUATION.md)."""
    from benchmarks import cache_pairs, cache_streams

    if pairs is not None or stream is None:
        with told("--pairs"):
            cache_pairs.main(pairs)
    if stream is not None or pairs is None:
        with told("--stream"):
            cache_streams.main(stream, seeds)


@app.command("import")
def import_(
    sizes: Annotated[
        str, typer.Option(help="Messages of the archives that are made, the smallest first.")
    ] = "50000,250000,1000000",
) -> None:
    """ChatGPT archives of several sizes: messages/s and peak memory of `groupqwen data import`; fails where it is
    not within 500 MiB, or not linear."""
    from benchmarks.chat_import import main

    if not main(tuple(int(size) for size in sizes.split(","))):
        raise typer.Exit(1)


@app.command()
def finetune(
    base: Annotated[str, typer.Option(help="The variant that is trained.")] = "smollm2-135m",
    recipes: Annotated[str, typer.Option(help="Names of configs/recipes.yaml.")] = "reference,habits",
    epochs: Annotated[float | None, typer.Option(help="The same for all; unset: as each says.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Recipes on the same short conversations: loss on held-out phrasings, time, memory."""
    from benchmarks.finetune import main
    from groupqwen.training.weights import base_weights

    main(base_weights(home(), load_catalog(), base)[0], recipes.split(","), epochs, threads)


@app.command()
def finetune_backends(
    tokenizer: Annotated[str, typer.Option(help="The variant whose tokenizer is taken.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=2)] = 60,
    batch: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Unsloth beside plain PEFT on a Qwen3 of random weights: tokens/s and peak memory. Needs a CUDA GPU."""
    from benchmarks.finetune_backends import main
    from groupqwen.training.weights import base_weights

    main(base_weights(home(), load_catalog(), tokenizer)[0], steps, batch)


@app.command()
def finetune_resume(
    base: Annotated[str, typer.Option(help="The variant that is trained.")] = "smollm2-135m",
    recipe: Annotated[str, typer.Option(help="One of configs/recipes.yaml.")] = "habits",
    steps: Annotated[int, typer.Option(min=4)] = 40,
    plot: Annotated[Path | None, typer.Option(help="A file for the plot (PNG).")] = None,
) -> None:
    """A job whose worker is killed, and one whose whole Ray is, over one that nothing disturbs."""
    from benchmarks.finetune_resume import main
    from groupqwen.training.weights import base_weights

    main(base_weights(home(), load_catalog(), base)[0], recipe, steps, plot)


@app.command()
def curation(
    conversations: Annotated[int, typer.Option(min=10, help="Conversations whose steps are timed.")] = 600,
) -> None:
    """What curation finds of personal information and of near-duplicates, and how fast each step is."""
    from benchmarks.curation import main

    main(conversations)


@app.command()
def finetune_traffic(
    base: Annotated[str, typer.Option(help="The variant that is trained.")] = "smollm2-135m",
    asked: Annotated[str, typer.Option(help="The variant that answers meanwhile.")] = "smollm2-135m",
    clients: Annotated[int, typer.Option(min=1)] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="Before, and after.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Of the job.")] = 20,
) -> None:
    """Short requests before, while and after a job trains: p50, p95, failures. Needs the running group."""
    from benchmarks.finetune_traffic import main

    main(base, asked, clients, seconds, steps)


if __name__ == "__main__":
    app()
