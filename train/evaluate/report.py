"""The report of an evaluation: one HTML file that needs nothing beside it. What models and conversations say is
hostile: all of it is escaped, and the page's own policy lets no script run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.adapters import Gate
from configs.training import JobEvent, JobSpec
from train.evaluate.charts import line_chart

TEMPLATE = Path(__file__).parent / "report.html.j2"


@dataclass(frozen=True)
class Sample:
    """What both say to one held-out question. `judged`: who was found better; empty: nobody was asked."""

    question: str
    wanted: str
    base: str
    adapter: str
    judged: str = ""


@dataclass(frozen=True)
class Answered:
    """A task, and whether each was right (None: not checked)."""

    suite: str
    id: str
    question: str
    base: str
    base_right: bool | None
    adapter: str
    adapter_right: bool | None


@dataclass
class Findings:
    """What an evaluation fills in as it goes."""

    metrics: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """Of the table of metrics: `change` is good, bad or nothing."""

    name: str
    meaning: str
    base: float | None
    adapter: float | None
    better: str

    @property
    def change(self) -> str:
        if self.base is None or self.adapter is None or not self.better or self.base == self.adapter:
            return ""
        return "good" if (self.adapter > self.base) == (self.better == "up") else "bad"


_KNOWN = {
    "held_out": ("loss on held-out answers, nats a token", "down"),
    "perplexity": ("perplexity of held-out answers", "down"),
    "regression": ("regression suite, share right", "up"),
    "general_loss": ("loss on general text, nats a token", "down"),
    "tasks": ("the dataset's own tasks, share right", "up"),
    "canaries.exposure": ("planted secrets stand out, mean bits", "down"),
    "canaries.extracted": ("planted secrets that are told", "down"),
}


def rows(metrics: Mapping[str, float]) -> list[Row]:
    """Base and adapter side by side."""
    made: dict[str, Row] = {}
    for metric in metrics:
        name, _, who = metric.rpartition(".")
        if who not in ("base", "adapter"):
            continue
        group = next((known for known in _KNOWN if name == known or name.startswith(known + ".")), "")
        meaning, better = _KNOWN.get(group, ("", ""))
        meaning += f" ({name[len(group) + 1 :]})" if name != group else ""
        made[name] = Row(name, meaning, metrics.get(f"{name}.base"), metrics.get(f"{name}.adapter"), better)
    return list(made.values())


def others(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are of one side only."""
    return {name: value for name, value in metrics.items() if name.rpartition(".")[2] not in ("base", "adapter")}


def curves(events: Sequence[JobEvent]) -> dict[str, str]:
    """The charts of a job, by title. A job that was resumed tells some steps twice: the last time counts."""

    def points(kind: str, value: str) -> list[tuple[float, float]]:
        told = {
            event.data["step"]: event.data[value]
            for event in events
            if event.kind == kind and event.data.get(value) is not None and event.data.get("step") is not None
        }
        return sorted(told.items())

    made = {
        "Loss": line_chart(
            {"training": points("progress", "loss"), "validation": points("evaluation", "loss")},
            "step",
            "nats a token",
        ),
        "Learning rate": line_chart({"learning rate": points("progress", "learning_rate")}, "step", ""),
        "Tokens a second": line_chart({"tokens": points("progress", "tokens_per_second")}, "step", ""),
    }
    return {title: svg for title, svg in made.items() if svg}


def page(spec: JobSpec, findings: Findings, gate: Gate, events: Sequence[JobEvent]) -> str:
    """The HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["told"] = _told
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    recipe = spec.recipe.model_dump(mode="json")
    return template.render(
        spec=spec,
        recipe={name: value for name, value in recipe.items() if name != "note"},
        gate=gate,
        rows=rows(findings.metrics),
        others=others(findings.metrics),
        notes=findings.notes,
        samples=findings.samples,
        answered=findings.answered,
        # (Made here, of numbers and our own words.)
        curves={title: Markup(svg) for title, svg in curves(events).items()},  # noqa: S704
    )


def write_page(path: Path, html: str) -> None:
    """In one step. Raises `OSError`."""
    staged = path.with_name(path.name + ".new")
    # (A lone surrogate, which a model's text may hold, is no UTF-8.)
    staged.write_bytes(html.encode("utf-8", "replace"))
    staged.replace(path)


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
