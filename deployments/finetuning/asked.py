"""From what a client asks for to a job's recipe, name and spec. Pure.

OpenAI's hyperparameters are multiples of a recipe that is kept here under a name; our own API takes the recipe's
fields themselves.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.adapters import PREFIX, AdapterManifest, read_adapter
from configs.catalog import Catalog, VariantSpec
from configs.document import ConfigError
from configs.home import Home
from configs.training import ADAPTER_NAME, AdapterName, Backend, JobSpec, Recipe
from deployments.contract import ChatError, invalid
from deployments.finetuning.job import FILE_ID

MOST_NAME = 63
DATASET_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    """OpenAI's; `auto`: as the recipe says."""

    model_config = ConfigDict(extra="ignore")

    n_epochs: Auto | int = Field("auto", description="Times through the file.")
    batch_size: Auto | int = Field("auto", description="Conversations before the weights change.")
    learning_rate_multiplier: Auto | float = Field("auto", description="Of the recipe's learning rate.")
    beta: Auto | float = Field("auto", description="Of DPO: how near to the base it stays.")


class Start(BaseModel):
    """A job to start. Either `dataset` or `training_file`."""

    model_config = ConfigDict(extra="forbid")

    base: str = Field(
        max_length=200, description="The variant to start from, or `ft:<base>:<name>`: an adapter to go on from."
    )
    name: AdapterName = Field(description="Of the adapter: it is asked as `ft:<base>:<name>`.")
    dataset: str | None = Field(
        None, pattern=DATASET_NAME, description="A dataset of this machine, for keys with the scope admin."
    )
    training_file: str | None = Field(None, pattern=FILE_ID, description="A file of `/v1/files`.")
    validation_file: str | None = Field(None, pattern=FILE_ID)
    recipe: str = Field("reference", max_length=100, description="One of configs/recipes.yaml.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, max_length=40, description="Fields of the recipe that are different."
    )
    backend: Backend = "auto"
    workers: int = Field(1, ge=1, le=64, description="Processes that share each batch.")
    seed: int = Field(42, ge=0, lt=2**31)
    evaluate: bool = Field(True, description="Also the checks that decide on promotion.")


def new_id() -> str:
    """Of a job: nobody guesses it."""
    return f"ftjob-{secrets.token_hex(12)}"


def new_file_id() -> str:
    """Of a file: nobody guesses it."""
    return f"file-{secrets.token_hex(16)}"


def name_of(suffix: str | None, job_id: str) -> str:
    """An adapter's name from OpenAI's `suffix`; of none: from the job's id."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", (suffix or "").lower()).strip("-._")[:MOST_NAME].rstrip("-._")
    return plain if re.fullmatch(ADAPTER_NAME, plain) else f"job-{job_id.removeprefix('ftjob-')[:12]}"


def recipe_of(name: str, recipes: Mapping[str, Recipe], overrides: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields of one's own. Raises a 400 naming the field."""
    if name not in recipes:
        raise invalid(f"There is no recipe {name!r}; there are {', '.join(recipes)}.", param="recipe")
    try:
        return Recipe.model_validate({**recipes[name].model_dump(), **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise invalid(f"overrides.{field}: {first['msg']}", param=f"overrides.{field}") from None


def tuned(recipe: Recipe, asked: Hyperparameters) -> dict[str, Any]:
    """What OpenAI's hyperparameters change of a recipe. Raises a 400."""
    changed: dict[str, Any] = {}
    if asked.n_epochs != "auto":
        changed["epochs"] = _within("n_epochs", asked.n_epochs, 1, 50)
    if asked.batch_size != "auto":
        wanted = int(_within("batch_size", asked.batch_size, 1, 256))
        # As many at once as the recipe has, so that it takes no more memory than that.
        at_once = max(size for size in range(1, recipe.batch + 1) if wanted % size == 0)
        changed |= {"batch": at_once, "accumulation": wanted // at_once}
    if asked.learning_rate_multiplier != "auto":
        times = _within("learning_rate_multiplier", asked.learning_rate_multiplier, 1e-4, 100)
        changed["learning_rate"] = min(0.1, recipe.learning_rate * times)
    if asked.beta != "auto" and recipe.method == "dpo":
        changed["beta"] = _within("beta", asked.beta, 1e-4, 2)
    return changed


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise invalid(f"{name} is {value:g}; it may be {least:g} to {most:g}.", param=name)
    return value


def base_of(asked: str, catalog: Catalog, home: Home) -> tuple[str, VariantSpec, tuple[str, ...]]:
    """The variant that is meant, and the version of the adapter that it goes on from. Raises a `ChatError`."""
    base = asked
    parents: tuple[str, ...] = ()
    if asked.startswith(PREFIX):
        base, _, name = asked.removeprefix(PREFIX).rpartition(":")
        made = read_made(home, name) if re.fullmatch(ADAPTER_NAME, name) else None
        if made is None:
            raise no_such_parent(name)
        if made.base != base:
            raise invalid(f"The adapter {name!r} was made for {made.base!r}, not for {base!r}.", param="model")
        parents = (made.version,)
    try:
        spec = catalog.variant(base)
    except ConfigError as error:
        raise _no_such_base(str(error)) from None
    if spec.engine == "remote":
        raise invalid(f"{base!r} runs somewhere else: its weights are not here.", param="model")
    return base, spec, parents


def read_made(home: Home, name: str) -> AdapterManifest | None:
    """What is known of the adapter of this name, or of this very version of it; None: there is none that can be
    read, or another version is there."""
    bare = name.partition("@")[0]
    try:
        made = read_adapter(home.adapters / bare)
    except (OSError, ValidationError):
        return None
    return made if name in (bare, made.version) else None


def no_such_parent(name: str) -> ChatError:
    """A 404, which does not say of which version: whose it is must not be learned by asking."""
    return _no_such_base(f"There is no adapter {name.partition('@')[0]!r} to go on from.")


def name_taken(name: str) -> ChatError:
    """A 409: what is made would take the name from somebody else's adapter."""
    return ChatError(
        f"An adapter {name!r} of somebody else's is there or is being made: choose another name.",
        status=409,
        kind="invalid_request_error",
        code="name_taken",
        param="name",
    )


def _no_such_base(message: str) -> ChatError:
    return ChatError(message, status=404, kind="not_found_error", code="model_not_found", param="model")


def spec_of(
    job_id: str,
    start: Start,
    recipe: Recipe,
    base: tuple[str, VariantSpec, tuple[str, ...]],
    home: Home,
    dataset: Path,
    **machine: Any,
) -> JobSpec:
    """All that the job's own process is told. `machine`: its `gpu` and `threads`."""
    name, variant, parents = base
    file = home.model_file(name, variant.source)
    return JobSpec(
        id=job_id,
        name=start.name,
        base=name,
        weights=home.model_folder(name),
        base_gguf=file if file.suffix == ".gguf" else None,
        dataset=dataset,
        recipe=recipe,
        backend=start.backend,
        workers=start.workers,
        seed=start.seed,
        parents=parents,
        adapters=home.adapters,
        evaluate=start.evaluate,
        **machine,
    )
