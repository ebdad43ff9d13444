"""`groupqwen router`: learning from outcomes, and looking at what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from configs.home import home
from deployments.classifier.learned import ArtifactError, Learned, load_learned
from groupqwen.outcomes import OutcomesError, read_outcomes

app = typer.Typer(help="The learned router: train it from outcomes, look at it.", no_args_is_help=True)
console = Console()

FileOption = Annotated[
    Path | None, typer.Option("--artifact", help="The artifact; unset: router.npz in GROUPQWEN_HOME.")
]


@app.command()
def train(
    source: Annotated[
        Path,
        typer.Option(
            "--from", help="Outcomes: CSV or JSON lines with `question`, `model`, `correct` (docs/EVALUATION.md)."
        ),
    ],
    artifact: FileOption = None,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.", min=2)] = 5,
    force: Annotated[bool, typer.Option("--force", help="Replace a better one.")] = False,
) -> None:
    """Learn who answers what right. Needs no running service. A better router is not replaced by a worse one.

    All measures are from questions that were held out. They hold for questions like these: what is learned on one
    kind of question says little about another.
    """
    from deployments.classifier.training import TooLittle, learn

    path = artifact or home().router
    try:
        outcomes = read_outcomes(source)
        with console.status(f"Learning from {len(outcomes.questions):,} questions …"):
            learned = learn(outcomes, folds)
    except (OutcomesError, TooLittle) as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    show(learned.about["measures"], len(outcomes.questions))
    before = _before(path)
    if before is not None and not force and quality(before.about) > quality(learned.about):
        console.print(
            f"[yellow]{path} is better (mean AUROC {quality(before.about):.3f} to {quality(learned.about):.3f} on "
            f"its {before.about['questions']:,} questions) and stays; --force replaces it.[/yellow]"
        )
        raise typer.Exit(1)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    learned.save(path)
    console.print(f"Written: {path}")


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
    console.print(f"data: sha256 {learned.about['data']}")


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


def quality(about: Any) -> float:
    """One figure to compare artifacts by: the mean AUROC of their variants."""
    found = [float(one["auroc"]) for one in about["measures"]["variants"].values()]
    return sum(found) / len(found)


def _before(path: Path) -> Learned | None:
    try:
        return load_learned(path)
    except (ArtifactError, OSError):
        return None
