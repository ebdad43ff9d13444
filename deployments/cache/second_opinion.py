"""What a variant is asked about questions and answers that words do not decide, and what it says. Pure asyncio."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from openai.types.chat import ChatCompletionChunk

from deployments.contract import ChatRequest, RequestContext
from deployments.router.self_check import READ_CHARS, likely_yes, yes_or_no
from deployments.timing import within

logger = logging.getLogger("ray.serve")

SMALLEST = "smallest"
JUDGE_SECONDS = 30.0

SAME_QUESTION = """Question A: {one}
Question B: {other}

Would one and the same answer be right and complete for both? Reply with one word, yes or no."""

SAME_ANSWER = """Question: {question}

Answer A:
{one}

Answer B:
{other}

Do both answers say the same? Reply with one word, yes or no."""

Chat = Callable[[ChatRequest, RequestContext], AsyncIterator[list[ChatCompletionChunk]]]


class SecondOpinion:
    """Of variants that are always in memory, the smallest first."""

    def __init__(self, chats: Mapping[str, Chat]) -> None:
        self._chats = dict(chats)

    def named(self, wanted: str | None) -> str | None:
        """Who is meant by a rule; None where nobody is, or it is not there."""
        if wanted == SMALLEST:
            return next(iter(self._chats), None)
        return wanted if wanted in self._chats else None

    async def one_answer_for_both(self, name: str, asked: str, kept: str, seconds: float) -> float | None:
        """P(yes) that one answer would do for both questions; None where it did not say in time."""
        return await self._says(name, SAME_QUESTION.format(one=asked, other=kept), seconds)

    async def say_the_same(self, name: str, question: str, one: str, other: str) -> bool | None:
        """Whether two answers do, asked in both orders, because the first is favoured; None where it does not
        know."""
        said = []
        for first, second in ((one, other), (other, one)):
            texts = {"question": question, "one": first, "other": second}
            asked = SAME_ANSWER.format(**{name: text[:READ_CHARS] for name, text in texts.items()})
            said.append(await self._says(name, asked, JUDGE_SECONDS))
        if None in said:
            return None
        return all(likely is not None and likely >= 0.5 for likely in said)

    async def _says(self, name: str, question: str, seconds: float) -> float | None:
        context = RequestContext(f"cache-{secrets.token_hex(6)}", cache="bypass")
        stream: Any = self._chats[name](yes_or_no(question), context)
        try:
            return likely_yes(await within(_all(stream), seconds))
        except TimeoutError:
            return None
        except Exception as error:  # Whatever it is: an opinion is no more than that.
            logger.warning("%s was asked for its opinion and failed: %s", name, error)
            return None
        finally:
            # (Of Serve's streams: one that is not stopped is answered to its end.)
            stop = getattr(stream, "cancel", None)
            if stop is not None:
                stop()


async def _all(stream: AsyncIterator[list[ChatCompletionChunk]]) -> list[ChatCompletionChunk]:
    return [chunk async for chunks in stream for chunk in chunks]
