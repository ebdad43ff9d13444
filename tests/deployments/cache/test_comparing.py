from __future__ import annotations

from collections.abc import Sequence

import pytest

from deployments.cache.comparing import say_the_same

LONG = "The cat sat on the mat and looked at the rain."


async def compared(one: str, other: str, *, alike: float = 1.0, judge: bool | None = None) -> tuple[bool, int]:
    """The verdict, and how often the judge was asked."""
    asked = []

    async def vectors(_texts: list[str]) -> Sequence[Sequence[float]]:
        return [[1.0, 0.0], [alike, (1 - alike**2) ** 0.5]]

    async def judging() -> bool | None:
        asked.append(True)
        return judge

    return await say_the_same(one, other, vectors, judging), len(asked)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris.", "paris", True),
        ("Yes, it is.", "No, it is not.", False),
        ("It costs 5 euros.", "It costs 7 euros.", False),
        ("It is open.", "It is not open.", False),
        ('{"a": 1}', '{"a":1}', True),
    ],
)
async def test_words_numbers_and_form_need_no_judge(one: str, other: str, same: bool) -> None:
    assert await compared(one, other, judge=not same) == (same, 0)


async def test_where_they_leave_it_open_the_judge_has_the_word_and_else_the_embeddings() -> None:
    assert await compared(LONG, "A cat watched it raining.", judge=True, alike=0.1) == (True, 1)
    assert await compared(LONG, "A cat watched it raining.", judge=False) == (False, 1)
    assert await compared(LONG, "A cat watched it raining.", judge=None, alike=0.95) == (True, 1)
    assert await compared(LONG, "A dog slept.", judge=None, alike=0.7) == (False, 1)
