"""`groupqwen router`: learning from outcomes and labelled answers, and looking at what was learned.

What learns is imported where it is used: scikit-learn takes a second, for which every other command would wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table

from configs.home import home
from configs.routing import load_routing
from deployments.classifier.learned import FAMILIES, ROUTER, ArtifactError, Learned, load_learned

if TYPE_CHECKING:
    from deployments.classifier.training import Outcomes
    from deployments.ledger.store import LedgerStore
    from deployments.router.calibration import Calibration

T = TypeVar("T")

app = typer.Typer(help="The learned router: train it from outcomes, look at it.", no_args_is_help=True)
console = Console()

FileOption = Annotated[
    Path | None, typer.Option("--artifact", help="The artifact; unset: router.npz in GROUPQWEN_HOME.")
]


@app.command()
def train(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="`ledger` (what was said of answers), or a file of outcomes: CSV or JSON lines with `question`, "
            "`model`, `correct` (docs/EVALUATION.md).",
        ),
    ],
    artifact: FileOption = None,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.", min=2)] = 5,
    embedding: Annotated[
        bool, typer.Option(help="Learn from the questions' embeddings too, where that is better.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a better one.")] = False,
) -> None:
    """Learn who answers what right. A file needs no running service. A better router is not replaced by a worse
    one.

    All measures are from questions that were held out. They hold for questions like these: what is learned on one
    kind of question says little about another. `groupqwen deploy` brings it into service.
    """
    from deployments.classifier.training import TooLittle, learn, mean_auroc
    from groupqwen.outcomes import OutcomesError, read_outcomes
    from groupqwen.vectors import vectors_of

    path = artifact or home().router
    try:
        outcomes = outcomes_of(asyncio.run(labelled())) if source == "ledger" else read_outcomes(Path(source))
        vectors = vectors_of(outcomes.questions, console) if embedding else None
        with console.status(f"Learning from {len(outcomes.questions):,} questions …"):
            learned = learn(outcomes, folds, vectors=None if vectors is None else vectors.values)
        if learned.embedded is not None and vectors is not None:
            learned = replace(learned, about={**learned.about, "embedder": vectors.embedder})
    except (OutcomesError, TooLittle) as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    show(learned.about["measures"], len(outcomes.questions))
    console.print(_read_by(learned))
    before = _before(path)
    was, now = (mean_auroc(one.about["measures"]) if one else 0.0 for one in (before, learned))
    if before is not None and not force and was > now:
        console.print(
            f"[yellow]{path} is better (mean AUROC {was:.3f} to {now:.3f} on its "
            f"{before.about['questions']:,} questions) and stays; --force replaces it.[/yellow]"
        )
        raise typer.Exit(1)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    learned.save(path)
    console.print(f"Written: {path}. `groupqwen deploy` brings it into service.")


@app.command()
def families(
    source: Annotated[
        Path, typer.Option("--from", help="Labelled questions: CSV or JSON lines with `question`, `category`.")
    ],
    artifact: Annotated[
        Path | None, typer.Option("--artifact", help="The file; unset: families.npz in GROUPQWEN_HOME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a better one.")] = False,
) -> None:
    """Learn what a question is about, from questions with your labels, for rules in `routing.yaml`
    (`when: {domain: [law]}`). `groupqwen deploy` brings it into service.

    A question that is told less surely than nearly all of these were has no domain.
    """
    from deployments.classifier.families import learn_families
    from deployments.classifier.training import TooLittle
    from groupqwen.outcomes import OutcomesError, read_families

    path = artifact or home().families
    try:
        questions, labels = read_families(source)
        with console.status(f"Learning from {len(questions):,} questions …"):
            learned = learn_families(questions, labels)
    except (OutcomesError, TooLittle) as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    measured = learned.about["measures"]
    console.print(
        f"{len(learned.names)} labels, {len(questions):,} questions, held out in turn: {measured['accuracy']:.1%} "
        f"are told right (always the commonest: {measured['commonest']:.1%})."
    )
    before = _before(path, FAMILIES)
    was = before.about["measures"]["accuracy"] if before else 0.0
    if was > measured["accuracy"] and not force:
        console.print(f"[yellow]{path} is better ({was:.1%} right) and stays; --force replaces it.[/yellow]")
        raise typer.Exit(1)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    learned.save(path)
    console.print(f"Written: {path}. `groupqwen deploy` brings it into service.")


@app.command()
def calibrate(
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="A log of answers: `question`, `model`, `correct`, `mean_logprob`, `margin`, `cost` and more.",
        ),
    ],
    artifact: Annotated[
        Path | None, typer.Option("--artifact", help="The file; unset: calibration.json in GROUPQWEN_HOME.")
    ] = None,
) -> None:
    """Learn what each variant's confidence is worth, and so when a larger one must take over.

    The log's columns are those of docs/EVALUATION.md; `python scripts/benchmark.py cascade` makes one of the
    running group. `groupqwen deploy` brings it into service.
    """
    from deployments.classifier.training import TooLittle
    from deployments.router.calibrating import calibrate as learn_calibration
    from deployments.router.escalation import Judges
    from groupqwen.answer_log import read_log
    from groupqwen.outcomes import OutcomesError

    path = artifact or home().calibration
    try:
        log = read_log(source)
        with console.status(f"Learning from {len(log.questions):,} questions …"):
            found = learn_calibration({name: log.labelled(name) for name in log.models[:-1]})
    except (OutcomesError, TooLittle) as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    table = Table(
        Column("variant", no_wrap=True),
        *(Column(title, justify="right") for title in ("answers", "right", "AUROC", "ECE before", "ECE after")),
        title="Whole answers, held out in turn",
    )
    for name, one in found.about["measures"].items():
        figures = ("right", "auroc", "calibration_error_before", "calibration_error")
        table.add_row(name, f"{one['answers']:,}", *(f"{one[figure]:.3f}" for figure in figures))
    console.print(table)
    worth = {name: float(place) for place, name in enumerate(log.models)}
    judges = Judges(found, load_routing().escalation, worth)
    if judges.promised is not None and not judges.promised.never:
        console.print(
            f"At the commit point, answers with P(right) ≥ {judges.promised.value:.2f} are accepted: "
            f"{judges.promised.accepted:.0%} of these questions (target in configs/routing.yaml)."
        )
    for warning in judges.warnings:
        console.print(f"[yellow]{warning}.[/yellow]")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    found.save(path)
    console.print(f"Written: {path}. `groupqwen deploy` brings it into service.")


@app.command()
def report(
    target: Annotated[Path, typer.Option("--out", help="The page.")] = Path("router-report.html"),
    artifact: FileOption = None,
) -> None:
    """Write an HTML page: what was learned and how good it is, what confidence is worth, and whether it still
    holds.

    What was said of answers since is read from the Ledger where that is running.
    """
    from groupqwen.outcomes import OutcomesError
    from groupqwen.router_report import page

    try:
        said = asyncio.run(labelled())
    except OutcomesError as error:
        console.print(f"[yellow]Without what was said of answers: {error}[/yellow]")
        said = []
    learned = _before(artifact or home().router)
    calibration = _calibration(home().calibration)
    if learned is None and calibration is None and not said:
        raise typer.BadParameter("nothing was learned yet: `groupqwen router train` or `calibrate` comes first")
    target.write_text(page(learned, calibration, said, load_routing()))
    console.print(f"Written: {target}")


async def labelled() -> list[dict[str, Any]]:
    """What was said of answers, from the Ledger. Raises `OutcomesError`."""
    return await from_ledger(lambda store: store.labelled())


async def from_ledger(asked: Callable[[LedgerStore], Awaitable[T]]) -> T:
    """What the Ledger says. Raises `OutcomesError`."""
    import asyncpg

    from deployments.ledger.store import LedgerStore
    from groupqwen.outcomes import OutcomesError

    url = database_url()
    store = LedgerStore(url)
    try:
        await store.connect()
        return await asked(store)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise OutcomesError(
            f"the Ledger does not answer ({error}); is the group running (`bash scripts/up.sh`)?"
        ) from error
    finally:
        await store.close()


def database_url() -> str:
    """Of the running group. Raises `OutcomesError`."""
    from groupqwen.outcomes import OutcomesError
    from groupqwen.stack.credentials import load_credentials
    from groupqwen.stack.lifecycle import remembered, settings_for

    choices = remembered(home())
    if choices is None:
        raise OutcomesError("nothing has been started here yet: run `bash scripts/up.sh`")
    return settings_for(home(), choices).environment(load_credentials(home()))["GROUPQWEN_DATABASE_URL"]


def outcomes_of(said: list[dict[str, Any]]) -> Outcomes:
    """Verdicts as outcomes: a question may have one of some variants only; the last one counts. Raises
    `OutcomesError`."""
    import numpy as np

    from deployments.classifier.training import Outcomes
    from groupqwen.outcomes import OutcomesError

    if not said:
        raise OutcomesError("nothing was said of any answer yet: `POST /v1/feedback`, or `learning.shadow`")
    answers: dict[str, dict[str, float]] = {}
    for row in said:
        answers.setdefault(row["query"], {})[row["variant"]] = float(row["correct"] >= 0.5)
    variants = sorted({variant for by_variant in answers.values() for variant in by_variant})
    right = {
        name: np.array([by_variant.get(name, math.nan) for by_variant in answers.values()]) for name in variants
    }
    return Outcomes(list(answers), right)


@app.command("show")
def show_artifact(artifact: FileOption = None) -> None:
    """What an artifact was learned from, and how good it is."""
    path = artifact or home().router
    try:
        learned = load_learned(path)
    except (ArtifactError, OSError) as error:
        raise typer.BadParameter(
            f"{error}; `groupqwen router train` makes one", param_hint="--artifact"
        ) from error
    show(learned.about["measures"], int(learned.about["questions"]))
    console.print(_read_by(learned))
    console.print(f"data: sha256 {learned.about['data']}")


def _read_by(learned: Learned) -> str:
    if learned.embedded is None:
        return "Questions are read as text alone."
    return f"Questions are read as text, and by their embedding ({learned.about.get('embedder')})."


def show(measures: dict[str, Any], questions: int) -> None:
    """Print what was measured on held-out questions."""
    table = Table(
        Column("variant", no_wrap=True),
        *(Column(title, justify="right") for title in ("right", "AUROC", "calibration error")),
        title=f"{questions:,} questions, held out in turn",
    )
    for name, one in measures["variants"].items():
        table.add_row(name, f"{one['right']:.3f}", f"{one['auroc']:.3f}", f"{one['calibration_error']:.3f}")
    console.print(table)
    for pair, one in measures["pairs"].items():
        console.print(f"{pair}: APGR {one['apgr']:.3f} (chance: 0.500)")


def _before(path: Path, kind: str = ROUTER) -> Learned | None:
    try:
        return load_learned(path, kind)
    except (ArtifactError, OSError):
        return None


def _calibration(path: Path) -> Calibration | None:
    from deployments.router.calibration import CalibrationError, load_calibration

    try:
        return load_calibration(path)
    except (CalibrationError, OSError):
        return None
