"""What two adapters differ in, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.adapters import AdapterManifest

_NOT_COMPARED = ("name", "created", "job", "promotion")
"""Two adapters never have these in common, or they say nothing of what they are."""
_OF_AN_EXPORT = ("bytes", "answer")


@dataclass(frozen=True)
class Difference:
    """`left` and `right` as text; empty: not there."""

    field: str
    left: str
    right: str


def differences(left: AdapterManifest, right: AdapterManifest) -> list[Difference]:
    """In the manifest's order."""
    before, after = _flat(left), _flat(right)
    fields = list(dict.fromkeys([*before, *after]))
    pairs = ((field, before.get(field, ""), after.get(field, "")) for field in fields)
    return [Difference(field, a, b) for field, a, b in pairs if a != b]


def _flat(manifest: AdapterManifest) -> dict[str, str]:
    told = manifest.model_dump(mode="json", exclude=set(_NOT_COMPARED))
    told["exports"] = {form: {key: one[key] for key in _OF_AN_EXPORT} for form, one in told["exports"].items()}
    return dict(_leaves("", told))


def _leaves(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}" if name else key, inner)]
    if isinstance(value, list):
        return [(name, ", ".join(str(one) for one in value))]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    return [(name, "" if value is None else str(value))]
