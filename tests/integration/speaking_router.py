"""One of several Routers over one Redis, for `test_shared_flights`: asks for one answer, says what it hears (JSON
lines), and speaks slowly where it is the one that answers.

Arguments: Redis' address, the request's name, how many words its own answer has, the seconds between two words.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator

from deployments.cache.exact_store import connect
from deployments.cache.seal import Sealed
from deployments.chunks import ChunkBuilder
from deployments.contract import ChatError
from deployments.router import shared_flights
from deployments.router.decision import Item, Routed, RouteDecision
from deployments.router.shared_flights import SharedFlights

shared_flights.SAY_SECONDS = 2.0
"""On a machine that runs all tests at once, a Redis that is there answers later than one that serves people."""
ROUTED = Routed(RouteDecision("small", "a test", "auto", "server"), "miss")


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(url: str, name: str, words: int, pause: float) -> None:
    def answer(said: list[Item]) -> AsyncGenerator[list[Item], None]:
        return spoken(len([item for item in said if not isinstance(item, Routed)]))

    async def spoken(begin: int) -> AsyncGenerator[list[Item], None]:
        say(answers_from=begin)
        builder = ChunkBuilder("1", "small")
        if not begin:
            yield [ROUTED]
        for word in range(begin, words):
            await asyncio.sleep(pause)
            if word == words - 1 and words == 13:
                raise ChatError("thirteen is too many", status=503)
            yield [builder.delta(0, content=f"{word} ")]

    def heard(item: Item) -> Item:
        return item

    # (Starting Python takes longer than an answer.)
    say(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        async for items in SharedFlights(connect(url), Sealed(b"k" * 32)).fly(name, answer, heard):
            for item in items:
                say(word="routed" if isinstance(item, Routed) else item.choices[0].delta.content)
        say(over=True)
    except ChatError as error:
        say(failed=error.status)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
