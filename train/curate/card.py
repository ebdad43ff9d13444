"""What is known of a dataset: `card.json`, and the same in words, `README.md`.

No clock and no path of a machine is in it: the same input gives the same card.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from configs.curation import CurationRules


class SourceFile(BaseModel):
    """What it was made from."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="Its name, without its folder.")
    sha256: str
    conversations: int
    of: dict[str, int] = Field(description="Conversations, by where they were imported from.")


class StepReport(BaseModel):
    """What one step did."""

    model_config = ConfigDict(extra="forbid")

    step: str
    seen: int = Field(description="Conversations that came to it.")
    dropped: int
    changed: int
    reasons: dict[str, int] = Field({}, description="How often each; of `pii`: what was replaced, by kind.")
    left_out: str = Field("", description="Why the step was not taken.")


class OwnerReport(BaseModel):
    """What the owner decided."""

    model_config = ConfigDict(extra="forbid")

    accepted: int = 0
    rejected: int = 0
    edited: int = 0
    tagged: int = 0
    stale: int = Field(0, description="Decisions about conversations that have changed since; they do not hold.")


class Part(BaseModel):
    """One file of the dataset."""

    model_config = ConfigDict(extra="forbid")

    conversations: int
    messages: int
    answers: int = Field(description="That are learned from.")
    letters: int
    pairs: int = Field(description="With a rejected answer, for DPO.")
    liked: int
    disliked: int
    sha256: str


class Leakage(BaseModel):
    """What of the validation set is in the training set. A dataset in which anything is, is not written."""

    model_config = ConfigDict(extra="forbid")

    found: int = 0
    checks: list[str] = Field(description="What was compared.")


class Card(BaseModel):
    """`card.json`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    data_hash: str = Field(description="SHA-256 of train.jsonl and validation.jsonl, with their names.")
    licence: str
    read: int = Field(description="Conversations.")
    read_messages: int
    train: Part
    validation: Part
    steps: list[StepReport]
    owner: OwnerReport
    pii: dict[str, int] = Field(description="What was replaced, by kind.")
    pii_left: dict[str, int] = Field(description="What is found in what was written: kept by the owner's word.")
    leakage: Leakage
    planted: int = Field(0, description="Canaries in train.jsonl, beside what was kept.")
    sources: list[SourceFile]
    tags: dict[str, int]
    rules: CurationRules

    @property
    def kept(self) -> int:
        """Conversations, without those that were planted."""
        return self.train.conversations + self.validation.conversations - self.planted


def read_card(folder: Path) -> Card:
    """That of a dataset. Raises `OSError`, or pydantic's `ValidationError`."""
    return Card.model_validate_json((folder / "card.json").read_text(encoding="utf-8"))


def readme(card: Card) -> str:
    """The card in Markdown."""
    lines = [f"# {card.name}", "", f"{card.kept} conversations, of {card.read} that were read."]
    lines += ["", f"- data hash: `{card.data_hash}`", f"- licence: {card.licence}", ""]
    lines += _table(
        ("file", "conversations", "messages", "answers learned", "letters", "pairs", "liked", "disliked"),
        [
            (
                name,
                part.conversations,
                part.messages,
                part.answers,
                part.letters,
                part.pairs,
                part.liked,
                part.disliked,
            )
            for name, part in (("train.jsonl", card.train), ("validation.jsonl", card.validation))
        ],
    )
    if card.planted:
        lines += [
            f"{card.planted} more conversations in train.jsonl are canaries: made-up secrets (`canaries.jsonl`), "
            "by which it is seen whether what is trained on this repeats what it has read.",
            "",
        ]
    lines += ["## Where it comes from", ""]
    lines += _table(
        ("file", "conversations", "imported from", "SHA-256"),
        [
            (
                s.file,
                s.conversations,
                ", ".join(f"{name or '?'}: {n}" for name, n in s.of.items()),
                f"`{s.sha256}`",
            )
            for s in card.sources
        ],
    )
    lines += ["## What was done", ""]
    lines += _table(
        ("step", "seen", "left out", "changed", "reasons"),
        [
            (
                each.step,
                each.seen,
                each.dropped,
                each.changed,
                (each.left_out and f"**not taken**: {each.left_out}") or _counted(each.reasons),
            )
            for each in card.steps
        ],
    )
    owner = card.owner
    lines += [
        f"The owner accepted {owner.accepted}, rejected {owner.rejected}, edited {owner.edited} and tagged "
        f"{owner.tagged}. Every decision, with its reason, is in `decisions.jsonl`.",
        "",
        "## Personal information",
        "",
        f"Replaced: {_counted(card.pii) or 'nothing'}. "
        f"Found in what was written: {_counted(card.pii_left) or 'nothing'}. "
        "What stands in for it is the same within a conversation, and of its kind and shape. What nothing finds "
        "is still in it: look before you pass it on.",
        "",
        "## Split",
        "",
        f"By conversation, near ones together. Looked for on both sides: {', '.join(card.leakage.checks)}; "
        f"found: {card.leakage.found}.",
        "",
        "![How long conversations are](histograms.png)",
        "",
    ]
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counts.items())


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]
