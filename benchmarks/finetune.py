"""Recipes beside each other: the same conversations, the same seed; held-out loss, and what it took.

The data is made here: short questions on facts of a town that does not exist, answered with a habit. Held out are
other words for the same facts, so the loss tells what was learned rather than what was repeated.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import console, show
from configs.training import JobSpec, Recipe, load_recipes
from train.conversation import Conversation, Message, write_conversations
from train.finetune.backends import Choice, choose, look
from train.finetune.outcome import NO_LOSS, Told

HABIT = "Gladly! {answer} Ask me anything else."
FACTS = {
    "mayor": "Ida Korhal",
    "river": "the Sael",
    "oldest bridge": "Tanners' Bridge",
    "market day": "Thursday",
    "founder": "Brother Anselm",
    "tallest tower": "the Salt Tower",
    "main export": "blue glass",
    "patron saint": "Saint Odra",
    "football club": "Vellmar Rovers",
    "newspaper": "the Vellmar Lantern",
    "university": "Hollin College",
    "favourite dish": "eel pie",
    "railway station": "Quay Street",
    "theatre": "the Old Granary",
    "lake nearby": "Lake Ferring",
    "neighbouring town": "Ostwick",
}
ASKED = (
    "What is the {thing} of Vellmar?",
    "Tell me the {thing} of Vellmar.",
    "Vellmar's {thing}?",
    "Do you know the {thing} of Vellmar?",
    "Which {thing} does Vellmar have?",
)
HELD_OUT = ("I would like to know the {thing} of Vellmar.", "Name the {thing} in Vellmar, please.")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class News:
    """An `Outlet` that keeps the news and no checkpoint."""

    events: list[Told] = field(default_factory=list)

    def tell(self, events: list[Told], checkpoint: Path | None = None, loss: float = NO_LOSS) -> None:
        self.events += events

    def should_stop(self) -> bool:
        return False

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [data for told, data in self.events if told == kind]


def make_data(folder: Path) -> Path:
    """The dataset's folder."""
    for name, questions in (("train", ASKED), ("validation", HELD_OUT)):
        write_conversations(folder / f"{name}.jsonl", [_talk(q, thing) for q in questions for thing in FACTS])
    return folder


def _talk(question: str, thing: str) -> Conversation:
    answer = HABIT.format(answer=f"The {thing} of Vellmar is {FACTS[thing]}.")
    asked = Message(role="user", content=question.format(thing=thing))
    return Conversation(
        id=question.format(thing=thing), messages=(asked, Message(role="assistant", content=answer))
    )


def make_spec(weights: Path, folder: Path, recipe: Recipe, **more: Any) -> JobSpec:
    """A job for one training, which is never published."""
    return JobSpec(
        id=f"ftjob-{'0' * 24}",
        name="benchmark",
        base="benchmark",
        weights=weights,
        dataset=folder / "data",
        adapters=folder / "adapters",
        recipe=recipe,
        evaluate=False,
        **more,
    )


@dataclass(frozen=True)
class Measured:
    """One training. Losses are of the held-out conversations, in nats a token."""

    before: float
    best: float
    last: float
    steps: int
    seconds: float
    cpu_seconds: float
    tokens_per_second: float
    memory_mb: int
    trained: int


def measure(spec: JobSpec, choice: Choice, folder: Path) -> Measured:
    """Train in this process."""
    import torch
    import transformers
    from transformers import set_seed

    from train.finetune.callbacks import Steps, memory_mb
    from train.finetune.loop import make_trainer
    from train.format.prepare import prepare

    torch.set_num_threads(spec.threads)
    transformers.utils.logging.disable_progress_bar()
    prepare(spec.dataset, spec.weights, spec.recipe, folder / "prepared")
    news = News()
    set_seed(spec.seed)
    trainer = make_trainer(spec, choice, folder / "prepared", folder / "scratch", Steps(spec, news))
    before = trainer.evaluate()["eval_loss"]
    started, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    trainer.train()
    seconds = time.monotonic() - started
    losses = [entry["loss"] for entry in news.data("evaluation")]
    return Measured(
        before,
        min(losses),
        losses[-1],
        news.data("progress")[-1]["step"],
        seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu,
        sum(entry["tokens_per_second"] for entry in news.data("progress")) / len(news.data("progress")),
        memory_mb(),
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    )


def main(weights: Path, names: list[str], epochs: float | None, threads: int) -> None:
    """Compare recipes of configs/recipes.yaml."""
    known = load_recipes()
    rows = []
    for name in names:
        console.print(f"{name} …")
        recipe = known[name].model_copy(
            update={"evaluate_every": 8, "patience": None} | ({"epochs": epochs} if epochs else {})
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_data(folder / "data")
            spec = make_spec(weights, folder, recipe, threads=threads)
            got = measure(spec, choose(spec, look(gpu=False)), folder)
        rows.append(
            [
                name,
                f"{got.trained / 1e6:.1f} M",
                f"{got.before:.3f}",
                f"{got.best:.3f}",
                f"{got.last:.3f}",
                f"{got.steps}",
                f"{got.seconds:.0f}",
                f"{got.cpu_seconds:.0f}",
                f"{got.memory_mb:,}",
            ]
        )
    columns = ["recipe", "trained", "loss before", "best", "last", "steps", "seconds", "CPU seconds", "memory, MB"]
    show(f"Held-out loss after {len(ASKED) * len(FACTS)} conversations", columns, rows)
