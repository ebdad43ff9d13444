"""From token bytes to text that may be sent: whole UTF-8 characters only, and nothing of a stop string.

Pure: no model, no I/O.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Feeds on the bytes of one sequence's tokens, in order; gives out text as soon as it is final."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False
        """Whether a stop string was met; the text before it has been given out, nothing after it is."""

    def push(self, data: bytes) -> str:
        """Text that became final with `data`. A tail that may still turn into a stop string is held."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """What was held, at the end of generation; a cut-off character becomes U+FFFD."""
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        # The stop string that is complete first wins, as it would token by token; then the longest.
        met = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if met:
            self.stopped = True
            self._held = ""
            return text[: min(met)[1]]
        hold = max(_overlap(text, stop) for stop in self._stop)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, short of all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-n:]):
            return n
    return 0
