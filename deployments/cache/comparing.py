"""Whether one answer may stand for another. What is in doubt counts as different. Pure asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from deployments.cache.guards import negation, numbers, words_of
from deployments.router.shadows import agreement

SHORT_WORDS = 40
"""Two answers of so many words or fewer are also read for other numbers, a negation, another yes or no."""

Vectors = Callable[[list[str]], Awaitable[Sequence[Sequence[float]]]]
Judge = Callable[[], Awaitable[bool | None]]


async def say_the_same(one: str, other: str, vectors: Vectors, judge: Judge) -> bool:
    """What their words, numbers and form say; where they leave it open, what the judge says, and where that is
    nothing (None), how near their embeddings are."""
    if all(len(text.split()) <= SHORT_WORDS for text in (one, other)):
        begin = [(words_of(text) or ("",))[0] for text in (one, other)]
        if begin[0] != begin[1] and {"yes", "no"} & set(begin):
            return False
        if numbers(one, other) or negation(one, other):
            return False
    asked: list[bool | None] = []

    async def near(texts: list[str]) -> Sequence[Sequence[float]]:
        # (Embeddings are asked for just where nothing else has told.)
        asked.append(await judge())
        return await vectors(texts)

    agreed = await agreement(one, other, near) >= 1.0
    verdict = asked[0] if asked else None
    return agreed if verdict is None else verdict
