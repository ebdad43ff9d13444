"""What one replica of the cache learns, and hears that others have learned: applied at once, written down
together, read again at the next start. Pure asyncio."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from deployments.cache.experience import Event, Experience
from deployments.cache.patience import FAILURES, Patience

DIGEST_SECONDS = 0.2
"""What is learned within this time is written down together."""

MOST_UNWRITTEN = 40_000
"""While Redis is away; the oldest goes."""


class Log(Protocol):
    """Where events are kept. Raises what `FAILURES` names."""

    async def note(self, events: list[Event], by: str) -> None: ...

    async def events(self, after: str = "0") -> list[tuple[str, str, Event]]: ...


class Learning:
    """Keeps an `Experience` in step with the log."""

    def __init__(self, experience: Experience, log: Log, patience: Patience) -> None:
        self._experience, self._log, self._patience = experience, log, patience
        self._me = secrets.token_hex(6)
        self._heard: str | None = None
        """The place in the log up to which it was read; None: not yet."""
        self._unwritten: list[Event] = []
        self._writing: asyncio.Task[None] | None = None
        # (Whatever is read is applied once, and whatever is written is written in order.)
        self._one_at_a_time = asyncio.Lock()

    async def hear(self) -> None:
        """Learn what was written down since; where Redis is away, later."""
        async with self._one_at_a_time:
            await self._hear()

    async def keep_up(self) -> None:
        """Hear the others, and write what could not be written before."""
        async with self._one_at_a_time:
            await self._hear()
            await self._write()
        await self._experience.renew()

    def learn(self, event: Event) -> None:
        """Now, and for the others and the next start."""
        self._experience.apply(event)
        self._unwritten = [*self._unwritten[1 - MOST_UNWRITTEN :], event]
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._digest())

    async def _digest(self) -> None:
        """Write down what was learned since, all in one, and reckon anew what follows from it, in a thread:
        lookups go on meanwhile."""
        await asyncio.sleep(DIGEST_SECONDS)
        async with self._one_at_a_time:
            if self._heard is None:
                await self._hear()
            await self._write()
        await self._experience.renew()

    async def _hear(self) -> None:
        try:
            found = await self._log.events(self._heard or "0")
        except FAILURES as error:
            self._patience.failed(error)
            return
        others = [event for _, by, event in found if by != self._me]
        if self._heard is None:
            self._experience.apply_all(others)
        else:
            for event in others:
                self._experience.hear(event)
        self._heard = found[-1][0] if found else self._heard or "0"

    async def _write(self) -> None:
        """What cannot be written now is written later."""
        events, self._unwritten = self._unwritten, []
        if not events:
            return
        try:
            await self._log.note(events, self._me)
        except FAILURES as error:
            self._patience.failed(error)
            self._unwritten = [*events, *self._unwritten][-MOST_UNWRITTEN:]
