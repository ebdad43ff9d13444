"""What `model` asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from configs.adapters import base_of
from configs.profile import Profile
from configs.routing import LEVELS, Routing
from deployments.contract import AUTO, no_such_model


@dataclass(frozen=True)
class Wish:
    """What `model` asks for: `auto`, a level, or one variant, perhaps with an adapter."""

    kind: str
    name: str


def resolve_model(requested: str | None, profile: Profile, routing: Routing) -> Wish:
    """Read `model`, through aliases. Raises a 404 `ChatError` for a name that nothing answers to."""
    name = (requested or AUTO).strip() or AUTO
    name = name.removeprefix("groupqwen/").removeprefix("openai/")
    name = routing.aliases.get(name, name)
    if name in (AUTO, "groupqwen"):
        return Wish("auto", AUTO)
    if name in LEVELS:
        return Wish("level", name)
    # (Whether there is such an adapter is the registry's to say.)
    if base_of(name) in profile.variants:
        return Wish("variant", name)
    raise no_such_model(
        f"The model {requested!r} does not exist here. There are: auto, {', '.join(profile.variants)}."
    )
