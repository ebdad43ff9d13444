"""Reads a YAML file into a pydantic model, with errors that name the file, the line and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

ROOT = Path(__file__).parent


class ConfigError(ValueError):
    """A configuration file is missing or wrong; the message says where and what."""


class Strict(BaseModel):
    """Base of all configuration models: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def read(path: Path, model: type[M]) -> M:
    """The file as `model`. Raises `ConfigError` naming file, line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {getattr(error, 'problem', error)}") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(_located(path, node, problem) for problem in error.errors())) from error


def _located(path: Path, node: yaml.Node | None, problem: Any) -> str:
    location = [part for part in problem["loc"] if isinstance(part, str | int)]
    return f"{path}:{_line(node, location)}: {'.'.join(map(str, location)) or '(file)'}: {problem['msg']}"


def _line(node: yaml.Node | None, location: list[str | int]) -> int:
    """Line of the deepest part of `location` that the file really has."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
