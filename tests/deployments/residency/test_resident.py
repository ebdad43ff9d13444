from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob

from configs.catalog import WarmUp
from configs.profile import ServedVariant
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatError, ChatRequest, RequestContext, engine_gone
from deployments.residency import gate as gates
from deployments.residency.resident import Resident, WarmUpFailed
from tests.waiting import until

HI = ChatRequest(messages=[{"role": "user", "content": "Hi"}])


class Engine(Resident):
    """An engine that is as it is told to be."""

    def __init__(self, wake_seconds: float = 30, **served: Any) -> None:
        self.asked = 0
        self.reside("v", ServedVariant(keep="auto", **served), wake_seconds, self._wanted)
        self.says = "Paris."
        self.logprob = -0.1
        self.fails: Exception | None = None
        self.history: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def _wanted(self) -> None:
        self.asked += 1

    async def _bring_in(self) -> None:
        self.history.append("in")
        await self.may_go_on.wait()
        if self.fails:
            raise self.fails

    async def _send_out(self, asleep: bool) -> None:
        self.history.append("asleep" if asleep else "out")
        if self.fails:
            raise self.fails

    def _in_flight(self) -> dict[str, Any]:
        return {"active": self._gate.inside, "waiting": 0, "memory_mb": 1}

    async def _answer(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        builder = ChunkBuilder(context.request_id, "v")
        yield [builder.delta(0, role="assistant", content="")]
        await self.may_go_on.wait()
        if self.fails:
            raise self.fails
        logprobs = [ChatCompletionTokenLogprob(token=self.says, logprob=self.logprob, top_logprobs=[])]
        yield [builder.delta(0, content=self.says, logprobs=logprobs, finish_reason="stop")]
        yield [builder.usage(token_usage(1, 1))]


async def answer(engine: Engine) -> str:
    return "".join(
        choice.delta.content or ""
        for chunks in [step async for step in engine.chat(HI, RequestContext("r"))]
        for chunk in chunks
        for choice in chunk.choices
    )


async def state(engine: Engine) -> str:
    return str((await engine.status())["state"])


async def test_it_comes_answers_and_goes() -> None:
    engine = Engine()
    assert await state(engine) == "absent"
    await engine.load()
    assert await state(engine) == "awake"
    assert await answer(engine) == "Paris."
    await engine.unload()
    assert await state(engine) == "absent"
    assert engine.history == ["in", "out"]
    await engine.unload()
    assert engine.history == ["in", "out"], "who is out has nothing to leave"


async def test_it_sleeps_and_wakes() -> None:
    engine = Engine()
    await engine.load()
    await engine.unload(asleep=True)
    assert await state(engine) == "asleep"
    await engine.load()
    assert await state(engine) == "awake"


async def test_a_load_is_one_load_however_many_ask_and_goes_on_without_them() -> None:
    engine = Engine()
    engine.may_go_on.clear()
    asking = [asyncio.create_task(engine.load()) for _ in range(2)]
    await until(lambda: engine.history)
    assert await state(engine) == "loading"
    asking[0].cancel()
    await asyncio.gather(asking[0], return_exceptions=True)
    engine.may_go_on.set()
    await asking[1]
    assert engine.history == ["in"]
    assert await state(engine) == "awake"


async def test_who_waits_too_long_or_for_one_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GRACE_SECONDS", 0.01)
    engine = Engine(wake_seconds=0.3)
    with pytest.raises(ChatError) as late:
        await answer(engine)
    assert (late.value.status, late.value.code) == (503, "variant_not_ready")
    assert engine.asked >= 1
    engine = Engine()
    waiting = asyncio.create_task(answer(engine))
    await until(lambda: engine.asked)
    await engine.fail("no room")
    with pytest.raises(ChatError, match="no room"):
        await waiting


async def test_too_many_waiters_are_refused() -> None:
    engine = Engine(parallel=1, max_queue=0)
    waiting = asyncio.create_task(answer(engine))
    await until(lambda: engine.asked)
    with pytest.raises(ChatError) as refused:
        await answer(engine)
    assert refused.value.status == 429
    await engine.load()
    assert await waiting == "Paris."


async def test_a_load_that_fails_leaves_it_absent_and_the_next_may_succeed() -> None:
    engine = Engine()
    engine.fails = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        await engine.load()
    assert await state(engine) == "absent"
    engine.fails = None
    await engine.load()
    assert await state(engine) == "awake"
    await engine.check_health()


async def test_one_that_cannot_leave_is_for_serve_to_restart() -> None:
    engine = Engine()
    await engine.load()
    engine.fails = RuntimeError("stuck")
    with pytest.raises(RuntimeError, match="stuck"):
        await engine.unload(asleep=True)
    with pytest.raises(RuntimeError, match="could not leave"):
        await engine.check_health()


@pytest.mark.parametrize(
    ("expects", "says", "logprob", "fails", "told"),
    [
        (None, "anything", -1.0, None, None),
        ("paris", "It is PARIS.", -1.0, None, None),
        ("Paris", "It is Rome.", -1.0, None, "does not hold 'Paris'"),
        (None, "  ", -1.0, None, "said '  '"),
        (None, "x", math.nan, None, "said 'x'"),
        (None, "x", -1.0, engine_gone("v"), "not available"),
    ],
)
async def test_a_warm_up_is_a_real_answer(
    expects: str | None, says: str, logprob: float, fails: Exception | None, told: str | None
) -> None:
    engine = Engine()
    engine.says, engine.logprob, engine.fails = says, logprob, fails
    warm_up = engine._warm_up(WarmUp(question="What is the capital of France?", expects=expects))
    if told is None:
        await warm_up
        return
    with pytest.raises(WarmUpFailed, match=f"v failed its warm-up.*{told}"):
        await warm_up
