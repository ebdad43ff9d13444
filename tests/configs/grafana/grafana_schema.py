"""A dashboard against Grafana's own schema, as the Grafana Foundation SDK has it: no field that Grafana does not
know, no value of another type."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard, with the place of each."""
    return list(_faults(document, Dashboard, "dashboard"))


def _faults(value: Any, declared: Any, at: str) -> Iterator[str]:
    """`value`: JSON, or an object that the SDK has made of it."""
    arguments = typing.get_args(declared)
    origin = typing.get_origin(declared)
    if declared in (Any, object) and not hasattr(value, "to_json"):
        return
    if origin in (typing.Union, types.UnionType):
        likely = [one for one in arguments if one is not types.NoneType] if value is not None else arguments
        tried = [list(_faults(value, one, at)) for one in likely]
        yield from min(tried, key=len)
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is none of {arguments}"
    elif origin in (list, dict) and not isinstance(value, origin):
        yield f"{at}: {value!r} is no {origin.__name__}"
    elif origin is list:
        for index, one in enumerate(value):
            yield from _faults(one, arguments[0], f"{at}[{index}]")
    elif origin is dict:
        for key, one in value.items():
            yield from _faults(one, arguments[1], f"{at}.{key}")
    elif isinstance(declared, type) and issubclass(declared, Enum):
        if value not in [member.value for member in declared]:
            yield f"{at}: {value!r} is no {declared.__name__}"
    elif hasattr(declared, "from_json") and isinstance(value, dict):
        made = declared.from_json(value)
        yield from (f"{at}{path}: Grafana does not know it" for path in _lost(value, _json(made)))
        yield from _faults(made, declared, at)
    elif hasattr(value, "to_json"):
        # Some are declared by what they can do, as queries are; what they are says more.
        made_by = type(value)
        hints = typing.get_type_hints(made_by.__init__, vars(sys.modules[made_by.__module__]))
        for name, one in vars(value).items():
            if one is not None and name in hints:
                yield from _faults(one, hints[name], f"{at}.{name}")
    elif declared is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{at}: {value!r} is no number"
    elif not isinstance(value, declared) or (declared is int and isinstance(value, bool)):
        yield f"{at}: {value!r} is no {declared.__name__}"


def _json(made: Any) -> Any:
    return json.loads(json.dumps(made, cls=JSONEncoder))


def _lost(given: Any, kept: Any, at: str = "") -> Iterator[str]:
    """Places of what was given and is not there any more."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from _lost(value, kept[key], f"{at}.{key}")
            elif value is not None:
                yield f"{at}.{key}"
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{at}[{index}]")
