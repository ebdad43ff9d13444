"""What can go wrong with a variant's answer, by cause, and who may be asked instead. Pure asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing

from openai.types.chat import ChatCompletionChunk

from configs.escalation import Cause, FallbackRules, Step
from deployments.contract import (
    ADAPTER_BROKEN,
    AWAY,
    ENGINE_GONE,
    MALFORMED,
    NOT_READY,
    QUEUE_FULL,
    STREAM_CUT,
    TOO_LONG,
    ChatError,
)
from deployments.timing import within

Steps = AsyncIterator[list[ChatCompletionChunk]]

OF_CODE: Mapping[str, Cause] = {
    TOO_LONG: "context",
    QUEUE_FULL: "busy",
    ENGINE_GONE: "engine",
    ADAPTER_BROKEN: "engine",
    NOT_READY: "not_ready",
    AWAY: "away",
    MALFORMED: "malformed",
    STREAM_CUT: "cut",
    "content_filter": "refused",
}

SAID: Mapping[Cause, str] = {
    "no_first_token": "said nothing in time",
    "stalled": "fell silent",
    "cut": "broke off",
    "malformed": "sent what is no answer",
    "engine": "failed",
    "context": "has too short a context",
    "refused": "refused the content",
    "busy": "is busy",
    "not_ready": "was not ready in time",
    "away": "is on a machine that has left",
}
"""What a decision says of the variant that another has replaced."""


class Failed(Exception):
    """An answer that did not come to its end. `error`: what the client is told where nobody else can answer."""

    def __init__(self, cause: Cause, error: ChatError) -> None:
        super().__init__(cause)
        self.cause: Cause = cause
        self.error = error


async def watched(
    steps: AsyncGenerator[list[ChatCompletionChunk], None], variant: str, rules: FallbackRules
) -> AsyncGenerator[list[ChatCompletionChunk], None]:
    """`steps`, which must begin and go on in time and end with a reason. Raises `Failed`; an error that is the
    client's own stays as it is."""
    begun = finished = False
    async with aclosing(steps):
        while True:
            try:
                wait = rules.stall_seconds if begun else rules.first_token_seconds
                chunks = await within(anext(steps), wait)
            except StopAsyncIteration:
                if finished:
                    return
                raise Failed("cut", _broken(variant, "broke off before its end", STREAM_CUT)) from None
            except TimeoutError:
                cause: Cause = "stalled" if begun else "no_first_token"
                raise Failed(cause, _broken(variant, SAID[cause], cause, status=504)) from None
            except ChatError as error:
                known = OF_CODE.get(error.code or "")
                if known is None:
                    raise
                raise Failed(known, error) from error
            for chunk in chunks:
                for choice in chunk.choices:
                    begun = begun or has_content(chunk)
                    finished = finished or choice.finish_reason is not None
                    if choice.finish_reason == "content_filter":
                        raise Failed("refused", _broken(variant, SAID["refused"], "content_filter", status=400))
            yield chunks


def has_content(chunk: ChatCompletionChunk) -> bool:
    """Whether a client would have something to show for it."""
    return any(
        choice.delta.content or choice.delta.tool_calls or getattr(choice.delta, "reasoning_content", None)
        for choice in chunk.choices
    )


def _broken(variant: str, what: str, code: str, status: int = 502) -> ChatError:
    kind = "invalid_request_error" if status == 400 else "server_error"
    return ChatError(f"The variant {variant!r} {what}.", status=status, kind=kind, code=code, retry_after=5.0)  # type: ignore[arg-type]


def next_in_chain(
    chain: Iterable[Step],
    variant: str,
    able: Mapping[str, float],
    contexts: Mapping[str, int],
    awake: Iterable[str],
    tried: Mapping[str, int],
    rests: Callable[[str], bool],
) -> str | None:
    """Who is asked after `variant` has failed, or None. `able`: variants that can take the request, with their
    quality; `contexts`: their context, tokens; `tried`: how often each was asked for this request. One that rests
    comes last."""
    found: list[str] = []
    own = able.get(variant, 0.0)
    for step in chain:
        others = {name: worth for name, worth in able.items() if name != variant and not tried.get(name)}
        if step == "same":
            found += [variant] if tried.get(variant, 0) < 2 else []
        elif step == "larger":
            found += sorted((name for name in others if others[name] >= own), key=lambda name: others[name])
        elif step == "smaller":
            found += sorted((name for name in others if others[name] < own), key=lambda name: -others[name])
        elif step == "longer":
            longer = [name for name in others if contexts[name] > contexts.get(variant, 0)]
            found += sorted(longer, key=lambda name: contexts[name])
        else:
            there = set(awake)
            found += sorted((name for name in others if name in there), key=lambda name: -others[name])
    rested = [name for name in found if not rests(name)]
    return next(iter([*rested, *found]), None)
