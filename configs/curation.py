"""How chats become a dataset: steps with names, in the order in which they are taken.

The defaults are configs/curation.yaml; `groupqwen data curate --config` takes another file of that form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.catalog import Source
from configs.document import Strict, read
from configs.home import Home

DEFAULTS = Path(__file__).parent / "curation.yaml"

Act = Literal["drop", "mute"]
"""`drop` leaves the conversation out; `mute` keeps the turn but does not learn from it (weight 0), and leaves the
conversation out where nothing to learn remains."""
Kind = Literal[
    "email", "phone", "card", "iban", "secret", "ip-address", "street-address", "name", "password", "government-id"
]
"""Of personal information."""


class Shape(Strict):
    """Empty turns and what comes after the last answer go; without question and answer nothing is left."""

    step: Literal["shape"]


class Flaws(Strict):
    """Answers that broke off, or that are errors: what the source says, and texts that are known errors."""

    step: Literal["flaws"]
    act: Act = "mute"
    texts: tuple[str, ...] = Field(
        (), description="Regular expressions of answers that are errors, from their first letter on."
    )
    unclosed_code: bool = Field(True, description="An answer whose last code block has no end broke off.")


class Length(Strict):
    """In letters, not tokens: no base model is known yet."""

    step: Literal["length"]
    fewest_turns: int = Field(2, ge=2, description="Of a conversation, questions and answers.")
    most_turns: int = Field(200, ge=2)
    fewest_letters: int = Field(2, ge=0, description="Of its answers together.")
    most_letters: int = Field(200_000, ge=1, description="Of the whole.")


class Language(Strict):
    """By py3langid, from the prose of the whole; code is not counted."""

    step: Literal["language"]
    allow: tuple[str, ...] = Field((), description="ISO 639-1 codes; none: all are allowed.")
    fewest_letters: int = Field(60, ge=1, description="What is shorter is not judged, and stays.")
    sureness: float = Field(0.8, ge=0, le=1, description="Below this probability it is not judged, and stays.")


class Refusals(Strict):
    """Answers that refuse or that do not know. Those that the owner disliked stay: KTO learns from them."""

    step: Literal["refusals"]
    act: Act = "mute"
    within: int = Field(240, ge=1, description="Letters of an answer in which it has to be said.")
    refusals: tuple[str, ...] = Field((), description="Regular expressions, of any case.")
    uncertainty: tuple[str, ...] = Field((), description="The same.")


class Wording(Strict):
    """Conversations with words that are kept out."""

    step: Literal["wording"]
    words: tuple[str, ...] = Field((), description="Words or phrases, whole and of any case.")
    file: Path | None = Field(None, description="More of them, one a line; `#` begins a remark.")
    roles: tuple[Literal["user", "assistant", "system", "tool"], ...] = ("user", "assistant")


class Pii(Strict):
    """Personal information is replaced, the same by the same within a conversation."""

    step: Literal["pii"]
    kinds: tuple[Kind, ...] = Field(
        (
            "email",
            "phone",
            "card",
            "iban",
            "secret",
            "password",
            "ip-address",
            "street-address",
            "government-id",
            "name",
        )
    )
    regions: tuple[str, ...] = Field(
        ("US", "GB", "DE"), description="Whose phone numbers are known without a country's code (ISO 3166)."
    )
    private_addresses: bool = Field(False, description="Also IP addresses of private networks.")
    names: Literal["model", "rules"] = Field(
        "model", description="By the offline model where it is installed, and rules; or by rules alone."
    )
    keep: tuple[str, ...] = Field((), description="What is never replaced, as it is written: your firm's number.")
    replace: tuple[str, ...] = Field((), description="Names that are always replaced: your own, your family's.")


class ExactDuplicates(Strict):
    """The same words, whatever the case, the spaces and the system prompt."""

    step: Literal["exact-duplicates"]


class NearDuplicates(Strict):
    """By the share of pieces of text in common (Jaccard), found by MinHash and then counted."""

    step: Literal["near-duplicates"]
    same: float = Field(0.8, gt=0, le=1, description="From here on the later of two goes.")
    near: float = Field(0.6, gt=0, le=1, description="From here on two stay on one side of the split.")
    letters: int = Field(5, ge=2, le=20, description="Of a piece.")
    numbers: bool = Field(True, description="Two whose numbers differ are never the same, only near.")

    @model_validator(mode="after")
    def _in_order(self) -> NearDuplicates:
        if self.near > self.same:
            raise ValueError("`near` is above `same`")
        return self


class AlikeDuplicates(Strict):
    """By what is meant: the cosine of embeddings."""

    step: Literal["alike"]
    same: float = Field(0.96, gt=0, le=1, description="From here on the later of two goes.")
    near: float = Field(0.88, gt=0, le=1, description="From here on two stay on one side of the split.")
    numbers: bool = Field(True, description="Two whose numbers differ are never the same, only near.")
    most: int = Field(200_000, ge=1, description="Conversations; with more, the step is left out, and says so.")

    @model_validator(mode="after")
    def _in_order(self) -> AlikeDuplicates:
        if self.near > self.same:
            raise ValueError("`near` is above `same`")
        return self


Step = Annotated[
    Shape
    | Flaws
    | Length
    | Language
    | Refusals
    | Wording
    | Pii
    | ExactDuplicates
    | NearDuplicates
    | AlikeDuplicates,
    Field(discriminator="step"),
]


class Split(Strict):
    """Which conversations are held back."""

    validation: float = Field(0.1, ge=0, lt=1, description="Their share.")
    seed: int = 42


class PiiModelFiles(Strict):
    """The model that finds names, as two files; who made it and under what licence is in curation.yaml."""

    name: str = Field("rampart", description="Of its folder among the models.")
    model: Source
    tokenizer: Source

    def files(self, home: Home) -> tuple[Path, Path]:
        """Where both lie."""
        return home.model_file(self.name, self.model), home.model_file(self.name, self.tokenizer)


class CurationRules(Strict):
    """`curation.yaml`."""

    steps: tuple[Step, ...]
    split: Split = Split()
    pii_model: PiiModelFiles = Field(description="Finds names; rules alone do it where it is not here.")
    embedder: str = Field("all-minilm-l6-v2", description="Of the catalog, for `alike`.")
    licence: str = Field(
        "private: made from the owner's chats, not to be passed on",
        description="Of the dataset, as its card says.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> CurationRules:
        names = [each.step for each in self.steps]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the step {name!r} comes twice")
        return self


def load_curation(path: Path = DEFAULTS) -> CurationRules:
    """Raises `ConfigError` naming file, line and field."""
    return read(path, CurationRules)
