"""Text in messages stays text: a control token that someone typed (`<|im_end|>`) must not become the token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


class ControlTokens:
    """The control tokens of one model. `seam`: what is put inside a typed one, so that it is none."""

    def __init__(self, texts: Iterable[str], seam: str) -> None:
        # A single character could not be parted; models have none.
        longest_first = sorted({text for text in texts if len(text) > 1}, key=len, reverse=True)
        self._typed = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._firsts = frozenset(text[0] for text in longest_first)
        self._seam = seam

    def disarm(self, value: Any) -> Any:
        """The same value with a seam in every control token of its strings, however deep they are."""
        if isinstance(value, str):
            if not any(first in value for first in self._firsts):
                return value  # An image's megabytes hold none: they are not searched on the event loop.
            return self._typed.sub(lambda match: match[0][0] + self._seam + match[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self.disarm(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.disarm(item) for item in value]
        return value
