"""The commit point, escalation and failures, on answers that are written down here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob

from configs.escalation import Cause, EscalationRules, FallbackRules
from deployments.chunks import ChunkBuilder, fold, token_usage
from deployments.contract import ChatError, ChatRequest, ContinuedRequest, engine_gone, invalid, queue_full
from deployments.router.answering import Answering, Committed, Plan, with_logprobs
from deployments.router.calibration import Calibrated, Evidence, Head
from deployments.router.confidence import SIGNALS
from deployments.router.escalation import Judge

SURE, UNSURE = -0.01, -3.0
ORDER = ["small", "middle", "large"]
EVIDENCE = Evidence(np.zeros((2, 1)), np.zeros(1), np.zeros(1))

Step = list[ChatCompletionChunk] | Exception | float
"""Chunks, an error, or seconds of silence."""


def calibrated() -> Calibrated:
    """P(right) follows the mean log-probability: 1 at 0, 0 at -5."""
    weights = (1.0, *([0.0] * len(SIGNALS)))
    knots = ((-5.0, 0.0), (0.0, 1.0))
    return Calibrated((), (Head(8, 0.0, weights, knots), Head(None, 0.0, weights, knots)), EVIDENCE)


JUDGE = Judge(calibrated(), None, None, 8, (0.8, 0.8), {})


def answer(name: str, words: list[tuple[str, float]], reason: str | None = "stop") -> list[Step]:
    """A chunk a word, with its log-probability; no end where `reason` is None."""
    builder = ChunkBuilder("r", name)
    steps: list[Step] = [[builder.delta(0, role="assistant", content="")]]
    for word, logprob in words:
        token = ChatCompletionTokenLogprob(token=word, logprob=logprob, top_logprobs=[])
        steps.append([builder.delta(0, content=word, logprobs=[token])])
    if reason is not None:
        steps.append([builder.delta(0, finish_reason=reason)])  # type: ignore[arg-type]
        steps.append([builder.usage(token_usage(5, len(words)))])
    return steps


def words(count: int, logprob: float, word: str = "x ") -> list[tuple[str, float]]:
    return [(word, logprob)] * count


@dataclass
class Group:
    """Variants that say what is written down for them, in turn."""

    says: dict[str, list[list[Step]]]
    request: ChatRequest
    judged: tuple[str, ...] = ()
    fallback: FallbackRules = field(default_factory=lambda: FallbackRules.model_validate({}))
    escalation: EscalationRules = field(
        default_factory=lambda: EscalationRules.model_validate({"target": {"quality": 0.95}})
    )
    asked: list[tuple[str, ChatRequest]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    failures: list[tuple[str, Cause]] = field(default_factory=list)

    async def ask(self, name: str, request: ChatRequest) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        self.asked.append((name, request))
        try:
            for step in self.says[name].pop(0):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closed.append(name)

    def larger(self, name: str) -> str | None:
        found = [other for other in ORDER[ORDER.index(name) + 1 :] if other in self.says]
        return found[0] if found else None

    async def instead(self, cause: Cause, name: str, tried: dict[str, int]) -> str | None:
        return next((other for other in self.says if not tried.get(other)), None)

    def plan(self) -> Plan:
        return Plan(
            request=self.request,
            ask=self.ask,
            judge=lambda name: JUDGE if name in self.judged else None,
            larger=self.larger,
            instead=self.instead,
            failed=lambda name, cause: self.failures.append((name, cause)),
            fallback=self.fallback,
            escalation=self.escalation,
            continues=lambda name: name != "middle",
            prompt_tokens=17,
        )


@dataclass
class Got:
    commits: list[Committed]
    chunks: list[ChatCompletionChunk]
    before: list[int]
    """How many chunks the variants had said when each was committed to."""

    @property
    def text(self) -> str:
        return fold(self.chunks).choices[0].message.content or ""

    @property
    def attempts(self) -> list[tuple[str, str]]:
        return [(attempt.variant, attempt.outcome) for attempt in self.commits[-1].attempts]

    @property
    def checked(self) -> list[int]:
        return [attempt.checked for attempt in self.commits[-1].attempts]


def group(judged: tuple[str, ...] = (), *, stream: bool = True, **fields: Any) -> Callable[..., Group]:
    request = ChatRequest(messages=[{"role": "user", "content": "q"}], stream=stream)

    def make(**says: list[Step]) -> Group:
        return Group({name: [steps] for name, steps in says.items()}, request, judged, **fields)

    return make


async def run(made: Group, first: str = "small") -> Got:
    commits: list[Committed] = []
    chunks: list[ChatCompletionChunk] = []
    async for item in Answering(made.plan()).run(first):
        if isinstance(item, Committed):
            commits.append(item)
        else:
            chunks += item
    return Got(commits, chunks, [])


async def test_a_sure_answer_streams_from_the_commit_point_on() -> None:
    made = group(("small",))(small=answer("small", words(20, SURE)), large=answer("large", words(3, SURE)))
    seen = [len(item) async for item in Answering(made.plan()).run("small") if isinstance(item, list)]
    assert seen[0] == 1 + 8, "what was held: the role, and the words up to the commit point"
    assert set(seen[1:]) == {1}, "then each as it comes"
    assert [name for name, _ in made.asked] == ["small"]


async def test_an_unsure_answer_is_never_seen() -> None:
    made = group(("small",))(
        small=answer("small", words(20, UNSURE, "wrong ")), large=answer("large", words(3, SURE, "right "))
    )
    got = await run(made)
    assert got.text == "right right right "
    assert [chunk.model for chunk in got.chunks] == ["large"] * len(got.chunks)
    assert got.attempts == [("small", "escalated"), ("large", "answered")]
    assert got.commits[0].variant == "large"
    assert "small was unsure" in (got.commits[0].why or "")
    assert made.closed[0] == "small", "it is stopped before the larger one is asked"
    small = got.commits[0].attempts[0]
    assert small.tokens == 8, "no more than the commit point is generated in vain"
    assert small.confidence == pytest.approx(0.4)


async def test_who_does_not_stream_is_given_the_judgement_of_the_whole() -> None:
    late = [*words(8, SURE), *words(30, UNSURE)]
    made = group(("small",), stream=False)(small=answer("small", late), large=answer("large", words(2, SURE, "y")))
    assert (await run(made)).text == "yy"
    made = group(("small",), stream=True)(small=answer("small", late), large=answer("large", words(2, SURE, "y")))
    assert (await run(made)).text == "x " * 38, "a stream has left by then"


async def test_a_short_answer_is_judged_when_it_is_whole() -> None:
    made = group(("small",))(small=answer("small", words(2, UNSURE)), large=answer("large", words(1, SURE, "y")))
    assert (await run(made)).text == "y"


async def test_what_cannot_recover_is_given_up_before_the_commit_point() -> None:
    judge = Judge(calibrated(), None, None, 8, (0.8, 0.8), {4: 0.5})
    made = group(("small",))(small=answer("small", words(20, UNSURE)), large=answer("large", words(1, SURE)))
    plan = made.plan()
    plan = Plan(**{**plan.__dict__, "judge": lambda name: judge if name == "small" else None})
    commits = [item async for item in Answering(plan).run("small") if isinstance(item, Committed)]
    assert commits[-1].attempts[0].tokens == 4


async def test_escalation_goes_step_by_step_and_no_further_than_it_may() -> None:
    says = {name: answer(name, words(20, UNSURE, name)) for name in ORDER}
    got = await run(group(("small", "middle", "large"))(**says))
    assert got.attempts == [("small", "escalated"), ("middle", "escalated"), ("large", "answered")]
    says = {name: answer(name, words(20, UNSURE, name)) for name in ORDER}
    once = EscalationRules.model_validate({"target": {"quality": 0.95}, "most_steps": 1})
    got = await run(group(("small", "middle", "large"), escalation=once)(**says))
    assert got.attempts == [("small", "escalated"), ("middle", "answered")]


BROKEN: list[tuple[Cause, list[Step]]] = [
    ("cut", answer("small", words(2, SURE), None)),
    ("engine", [*answer("small", words(2, SURE), None), engine_gone("small")]),
    ("busy", [queue_full(1.0)]),
    ("malformed", [ChatError("no chunk", status=502, code="malformed_chunk")]),
    ("refused", answer("small", words(2, SURE), "content_filter")),
    ("stalled", [*answer("small", words(2, SURE), None), 5.0]),
    ("no_first_token", [*answer("small", [], None), 5.0]),
]
SOON = FallbackRules.model_validate({"first_token_seconds": 0.1, "stall_seconds": 0.1})


@pytest.mark.parametrize(("cause", "steps"), BROKEN, ids=[cause for cause, _ in BROKEN])
async def test_before_the_commit_point_a_failure_is_not_seen(cause: Cause, steps: list[Step]) -> None:
    made = group(("small",), fallback=SOON)(small=steps, large=answer("large", words(3, SURE, "y")))
    got = await run(made)
    assert got.text == "yyy"
    assert sum(choice.delta.role is not None for chunk in got.chunks for choice in chunk.choices) == 1
    assert got.attempts == [("small", cause), ("large", "answered")]
    assert made.failures == [("small", cause)]


@pytest.mark.parametrize(("cause", "steps"), BROKEN, ids=[cause for cause, _ in BROKEN])
async def test_after_it_another_goes_on_with_the_rest(cause: Cause, steps: list[Step]) -> None:
    begun = answer("small", words(10, SURE, "a "), None)
    made = group(("small",), fallback=SOON)(
        small=[*begun, *steps[1:]] if len(steps) > 1 else [*begun, *steps],
        large=answer("large", words(3, SURE, "b ")),
    )
    if cause == "no_first_token":
        return  # Not possible any more: the first token was there.
    got = await run(made)
    assert got.text.startswith("a " * 10)
    assert got.text.endswith("b b b ")
    asked = made.asked[1][1]
    assert isinstance(asked, ContinuedRequest)
    assert got.text == asked.begun + "b b b "
    assert sum(choice.finish_reason is not None for chunk in got.chunks for choice in chunk.choices) == 1
    assert got.commits[-1].variant == "large"
    usage = got.chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens >= 13, "both parts count"


async def test_after_it_the_owner_may_want_an_error() -> None:
    rules = FallbackRules.model_validate({"after_commit": "error"})
    made = group(("small",), fallback=rules)(
        small=[*answer("small", words(10, SURE), None), engine_gone("small")],
        large=answer("large", words(1, SURE)),
    )
    with pytest.raises(ChatError, match="not available"):
        await run(made)
    assert [name for name, _ in made.asked] == ["small"]


async def test_when_the_larger_one_fails_the_unsure_one_is_better_than_nobody() -> None:
    made = group(("small",))(small=answer("small", words(20, UNSURE, "a ")), large=[engine_gone("large")])
    made.says["small"].append(answer("small", words(20, SURE, "a ")))
    got = await run(made)
    assert got.attempts == [("small", "escalated"), ("large", "engine"), ("small", "answered")]
    assert got.text == "a " * 20


async def test_a_larger_one_that_is_busy_leaves_the_unsure_answer() -> None:
    made = group(("small",))(small=answer("small", words(20, UNSURE, "a ")), large=[queue_full(1.0)])
    made.says["small"].append(answer("small", words(20, UNSURE, "a ")))

    async def nobody(cause: Cause, name: str, tried: dict[str, int]) -> str | None:
        return None

    plan = Plan(**{**made.plan().__dict__, "instead": nobody})
    chunks = [chunk async for item in Answering(plan).run("small") if isinstance(item, list) for chunk in item]
    assert fold(chunks).choices[0].message.content == "a " * 20


async def test_where_nobody_is_left_to_take_over_an_unsure_answer_stands() -> None:
    made = group(("small",))(small=answer("small", words(20, UNSURE, "a ")), large=[])
    asked: list[str] = []

    def larger(name: str) -> str | None:
        asked.append(name)
        return "large" if len(asked) == 1 else None

    plan = Plan(**{**made.plan().__dict__, "larger": larger})
    chunks = [chunk async for item in Answering(plan).run("small") if isinstance(item, list) for chunk in item]
    assert fold(chunks).choices[0].message.content == "a " * 20


async def test_who_does_not_stream_has_nothing_to_go_on_with() -> None:
    made = group(stream=False)(
        small=[*answer("small", words(3, SURE), None), engine_gone("small")],
        large=answer("large", words(2, SURE, "y")),
    )
    got = await run(made)
    assert got.text == "yy", "asked anew, not continued"


async def test_an_end_that_says_who_speaks_is_an_end_all_the_same() -> None:
    builder = ChunkBuilder("r", "small")
    end = builder.delta(0, role="assistant", content="", finish_reason="length")
    made = group()(small=[*answer("small", words(3, SURE), None), [end]])
    assert fold((await run(made)).chunks).choices[0].finish_reason == "length"


async def test_calls_and_thoughts_are_not_gone_on_with() -> None:
    builder = ChunkBuilder("r", "small")
    made = group()(
        small=[[builder.delta(0, reasoning="hm")], engine_gone("small")], large=answer("large", words(1, SURE))
    )
    with pytest.raises(ChatError):
        await run(made)


async def test_a_limit_holds_for_both_parts() -> None:
    made = group()(
        small=[*answer("small", words(3, SURE), None), engine_gone("small")], large=answer("large", words(1, SURE))
    )
    made.request.max_tokens = 10
    await run(made)
    assert made.asked[1][1].token_limit == 7


async def test_one_that_cannot_go_on_is_passed_over() -> None:
    made = group()(
        small=answer("small", words(3, SURE), None),
        middle=answer("middle", words(1, SURE)),
        large=answer("large", words(2, SURE, "b ")),
    )
    assert (await run(made)).text == "x x x b b "
    assert [name for name, _ in made.asked] == ["small", "large"]


async def test_where_nobody_can_go_on_there_is_an_error() -> None:
    made = group()(small=answer("small", words(3, SURE), None), middle=answer("middle", words(1, SURE)))
    with pytest.raises(ChatError, match="broke off"):
        await run(made)


async def test_a_clients_own_mistake_is_told_and_nobody_else_is_asked() -> None:
    made = group()(small=[invalid("bad field")], large=answer("large", words(1, SURE)))
    with pytest.raises(ChatError, match="bad field"):
        await run(made)
    assert made.failures == []


async def test_nobody_is_tried_after_the_deadline() -> None:
    rules = FallbackRules.model_validate({"deadline_seconds": 0.05, "stall_seconds": 0.1})
    made = group(fallback=rules)(small=[0.1, engine_gone("small")], large=answer("large", words(1, SURE)))
    with pytest.raises(ChatError):
        await run(made)
    assert [name for name, _ in made.asked] == ["small"]


def late(policy: str) -> EscalationRules:
    return EscalationRules.model_validate({"target": {"quality": 0.95}, "late": policy, "late_below": 0.7})


async def test_a_late_collapse_is_corrected_where_the_owner_wants_that() -> None:
    made = group(("small",), escalation=late("correct"))(
        small=answer("small", [*words(8, SURE), *words(20, UNSURE)]),
        large=answer("large", words(2, SURE, "right ")),
    )
    got = await run(made)
    assert got.text.startswith("x " * 28)
    assert "**Correction** (by large" in got.text
    assert got.text.endswith("right right ")
    assert sum(choice.finish_reason is not None for chunk in got.chunks for choice in chunk.choices) == 1
    assert got.attempts == [("small", "corrected"), ("large", "answered")]
    assert not isinstance(made.asked[1][1], ContinuedRequest), "it is asked the question itself"


async def test_or_stopped_with_a_hint() -> None:
    made = group(("small",), escalation=late("stop"))(
        small=answer("small", [*words(8, SURE), *words(80, UNSURE)]), large=answer("large", words(2, SURE))
    )
    got = await run(made)
    assert "small has become unsure" in got.text
    assert got.text.count("x ") < 80
    assert got.chunks[-2].choices[0].finish_reason == "stop"
    usage = got.chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == 17, "as far as it is known: its variant has not said yet"
    assert 8 < usage.completion_tokens < 88
    assert made.closed == ["small"]


@pytest.mark.parametrize(("word", "stands"), [("yes", True), ("No", False), ("perhaps", True)])
async def test_a_variant_may_be_asked_whether_it_stands_by_its_answer(word: str, stands: bool) -> None:
    rules = EscalationRules.model_validate({"target": {"quality": 0.95}, "self_check": True})
    made = group(("small",), stream=False, escalation=rules)(
        small=answer("small", words(9, SURE)), large=answer("large", words(1, SURE, "y"))
    )
    made.says["small"].append(answer("small", [(word, SURE)]))
    got = await run(made)
    assert got.text == ("x " * 9 if stands else "y")
    assert got.checked == [6, *([] if stands else [0])], "what the question took: 5 tokens read, 1 said"
    asked = made.asked[1][1]
    assert "Proposed answer:\nx x x" in asked.messages[0]["content"]
    assert asked.max_tokens == 2


async def test_logprobs_are_for_who_has_asked_for_them() -> None:
    made = group(("small",))(small=answer("small", words(9, SURE)), large=answer("large", words(1, SURE)))
    got = await run(made)
    assert all(choice.logprobs is None for chunk in got.chunks for choice in chunk.choices)
    made.request.logprobs = True
    made.says = {"small": [answer("small", words(9, SURE))], "large": []}
    got = await run(made)
    logprobs = fold(got.chunks).choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content or []) == 9


def test_a_watched_variant_is_asked_for_what_the_confidence_needs() -> None:
    request = ChatRequest(messages=[{"role": "user", "content": "q"}])
    assert (with_logprobs(request).logprobs, with_logprobs(request).top_logprobs) == (True, 2)
    more = request.model_copy(update={"logprobs": True, "top_logprobs": 5})
    assert with_logprobs(more).top_logprobs == 5
