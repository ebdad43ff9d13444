"""Which adapter answers a request: by name, by rule, by share; and nothing of it gets to where its base's is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from configs.adapters import Promotion
from configs.catalog import load_catalog
from configs.escalation import Cause
from configs.profile import load_profile
from configs.routing import CacheRules, Rule
from deployments.adapters.registry import Registry
from deployments.cache.canonical import cache_keys
from deployments.chunks import ChunkBuilder
from deployments.classifier.rules import Classification, classify
from deployments.contract import ADAPTER_BROKEN, Adapter, ChatError, ChatRequest, RequestContext
from deployments.ledger.prices import cost_of
from deployments.router.adapters import Adapters, listed, try_out
from deployments.router.breakers import Breakers
from deployments.router.decision import RouteDecision
from deployments.router.plans import Asking
from deployments.router.rules import Rules, Situation
from tests.deployments.adapters.made import published
from tests.deployments.router.trusting import ROUTING

CATALOG = load_catalog()
PROFILE = load_profile("cpu", CATALOG)
SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
MODEL, SECOND = f"ft:{SMALL}:a", f"ft:{SMALL}:b"


class Reading:
    """The rules alone, and how often they were asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def embedding(self, request: ChatRequest) -> bytes | None:
        return None

    async def classification(self, request: ChatRequest, embedding: bytes | None = None) -> Classification:
        self.asked += 1
        return classify(request.messages, ROUTING)


class Group:
    """A Router's side of adapters, over a registry of its own."""

    def __init__(self, folder: Path, *rules: dict[str, Any]) -> None:
        self.folder, self.reading = folder, Reading()
        self.adapters = Adapters(Registry(folder, PROFILE.variants), self.reading)
        routing = ROUTING.model_copy(update={"rules": tuple(map(Rule.model_validate, rules))})
        self.breakers = Breakers()
        situation = Situation(rests=self.breakers, adapters=self.adapters.promoted)
        self.rules = Rules(PROFILE, CATALOG, routing, situation)

    async def decide(self, text: str = "hi", session: str = "s", **given: Any) -> RouteDecision:
        _, _, decision = await self.asked(text, session, **given)
        return decision

    async def asked(
        self, text: str = "hi", session: str = "s", *, variants: tuple[str, ...] | None = None, **fields: Any
    ) -> tuple[ChatRequest, RequestContext, RouteDecision]:
        request = ChatRequest.model_validate({"messages": [{"role": "user", "content": text}], **fields})
        context = RequestContext("r", session=session, variants=variants)
        context = await self.adapters.place(request, context, self.rules)
        return request, context, self.rules.decide(request, context, classify(request.messages, ROUTING))


@pytest.fixture
def promoted(tmp_path: Path) -> Path:
    published(tmp_path, "a", SMALL, {}, promotion=Promotion())
    published(tmp_path, "idle", SMALL, {})
    return tmp_path


async def test_it_is_asked_by_its_name(promoted: Path) -> None:
    group = Group(promoted)
    for model in (MODEL, f"groupqwen/{MODEL}", f"openai/{MODEL}"):
        assert (await group.decide(model=model)).variant == MODEL
    decision = await group.decide(model=MODEL)
    assert decision.parameters == (await group.decide(model=SMALL)).parameters
    assert decision.arm is None
    assert (await group.decide()).variant == SMALL, "nobody else is given it"
    assert group.reading.asked == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (f"ft:{SMALL}:idle", "not promoted"),
        (f"ft:{SMALL}:unknown", "does not exist"),
        ("ft:another:a", "does not exist"),
        ("ft:a", "does not exist"),
        ("ft:", "does not exist"),
        (f"ft:{SMALL}", "does not exist"),
        (f"ft:{MIDDLE}:a", "does not exist"),
    ],
)
async def test_a_name_that_nothing_answers_to_is_404(promoted: Path, model: str, words: str) -> None:
    with pytest.raises(ChatError, match=words) as told:
        await Group(promoted).decide(model=model)
    assert (told.value.status, told.value.code) == (404, "model_not_found")


async def test_a_key_needs_its_base(promoted: Path) -> None:
    group = Group(promoted)
    assert (await group.decide(model=MODEL, variants=(SMALL,))).variant == MODEL
    assert (await group.decide(model=MODEL, variants=(MODEL,))).variant == MODEL, "exactly this one"
    with pytest.raises(ChatError, match="may not ask"):
        await group.decide(model=SMALL, variants=(MODEL,))
    with pytest.raises(ChatError) as refused:
        await group.decide(model=MODEL, variants=(MIDDLE,))
    assert refused.value.status == 403


async def test_a_rule_names_it_while_it_is_promoted(promoted: Path) -> None:
    rules = [
        {"name": "poems", "when": {"matches": "poem"}, "force": MODEL},
        {"name": "songs", "when": {"matches": "song"}, "prefer": MODEL},
        {"name": "not it", "when": {"matches": "prose"}, "force": f"ft:{SMALL}:idle"},
    ]
    group = Group(promoted, *rules)
    poem, song = await group.decide("a poem"), await group.decide("a song")
    assert (poem.variant, poem.forced, poem.reason) == (MODEL, True, "rule: poems")
    assert (song.variant, song.forced) == (MODEL, False)
    assert (await group.decide("prose")).variant == SMALL
    assert (await group.decide("hi")).variant == SMALL
    assert (await group.decide("a poem", model=MIDDLE)).variant == MIDDLE
    _, context, _ = await group.asked("a poem")
    assert [one.why for one in context.adapters] == ["rule"]
    published(promoted, "a", SMALL, {})
    assert (await group.decide("a poem")).variant == SMALL
    assert not group.rules.adapters_by_rule


async def test_a_forbidden_base_has_no_adapters(promoted: Path) -> None:
    published(promoted, "a", SMALL, {}, promotion=Promotion(share=1.0))
    assert (await Group(promoted).decide(model="trivial")).variant == MODEL
    for name in (SMALL, MODEL):
        group = Group(promoted, {"name": "not it", "when": {}, "forbid": [name]})
        assert (await group.decide(model="trivial")).variant == (MIDDLE if name == SMALL else SMALL)


async def test_a_share_is_drawn_by_conversation(promoted: Path) -> None:
    published(promoted, "a", SMALL, {}, promotion=Promotion(share=0.3))
    group = Group(promoted)
    sessions = [str(n) for n in range(400)]
    drawn = {one: await group.decide(session=one, model="trivial") for one in sessions}
    theirs = {one for one, decision in drawn.items() if decision.variant == MODEL}
    assert len(theirs) / len(sessions) == pytest.approx(0.3, abs=0.07)
    assert {drawn[one].arm for one in theirs} == {"adapter"}
    assert {drawn[one].arm for one in sessions if one not in theirs} == {"base"}
    assert group.reading.asked == 0, "nothing is classified for it"
    one = min(theirs)
    assert MODEL in drawn[one].reason
    for model, variant in ((SMALL, SMALL), ("complex", LARGE), (MODEL, MODEL)):
        decision = await group.decide(session=one, model=model)
        assert (decision.variant, decision.arm) == (variant, None), "its base's share only, and nobody's by name"
    group.breakers.failed(MODEL, 60)
    resting = await group.decide(session=one, model="trivial")
    assert (resting.variant, resting.arm) == (SMALL, None)


async def test_what_is_kept_is_kept_apart(promoted: Path, tmp_path: Path) -> None:
    """One key for each side, and another for other weights: of exact and of similar questions."""
    published(promoted, "a", SMALL, {}, promotion=Promotion(share=0.5))
    group, cache = Group(promoted), CacheRules()

    async def keys(session: str, **fields: Any) -> tuple[str, str | None]:
        request, context, decision = await group.asked("What is a noun?", session, **fields)
        found = cache_keys(request, context, cache)
        assert found is not None
        return decision.variant, f"{found.exact} {found.fingerprint}"

    sides = {await keys(str(n), model="trivial") for n in range(40)}
    assert {variant for variant, _ in sides} == {SMALL, MODEL}
    assert len(sides) == 2, "all of a side share one key"
    (named,) = {await keys(str(n), model=MODEL) for n in range(5)}
    published(promoted, "a", SMALL, {}, created=1.0, promotion=Promotion(share=0.5))
    retrained = {await keys(str(n), model="trivial") for n in range(40)} | {await keys("s", model=MODEL)}
    assert {key for variant, key in retrained if variant == MODEL}.isdisjoint({key for _, key in {*sides, named}})
    published(promoted, "a", SMALL, {})
    (demoted,) = {await keys(str(n), model="trivial") for n in range(40)}
    assert demoted in sides
    assert demoted[0] == SMALL


async def test_while_the_base_is_asked_in_its_place_it_is_asked_first(promoted: Path) -> None:
    published(promoted, "a", SMALL, {}, promotion=Promotion(share=1.0))
    group = Group(promoted)

    async def instead(cause: Cause, **fields: Any) -> str | None:
        request, context, decision = await group.asked(**fields)
        assert decision.variant == MODEL
        asking = Asking(group.rules, None, group.breakers, awake, request, context, FOUND, decision)  # type: ignore[arg-type]
        assert asking.judge(MODEL) is None, "its confidence means nothing yet"
        return await asking.instead(cause, MODEL, {MODEL: 1})

    assert await instead("engine", model="trivial") == SMALL
    assert await instead("busy", model="trivial") == SMALL
    assert await instead("engine", model=MODEL) is None, "who names it is answered by it, or by nobody"


FOUND = classify([{"role": "user", "content": "hi"}], ROUTING)


async def awake() -> list[str]:
    return []


async def test_what_a_variant_is_asked_with(promoted: Path) -> None:
    group = Group(promoted)
    mine = Adapter(MODEL, "these weights", "share")
    await group.adapters.look()
    assert group.adapters.wanted(SMALL, RequestContext("r", adapters=(mine,))) is None
    assert group.adapters.wanted(MODEL, RequestContext("r", adapters=(mine,))) == mine
    shadow = group.adapters.wanted(MODEL, RequestContext("r"))
    assert shadow is not None
    assert shadow.digest == group.adapters.promoted[MODEL].digest
    with pytest.raises(ChatError, match="does not exist"):
        group.adapters.wanted(SECOND, RequestContext("r"))


async def test_it_is_listed_as_its_base_is(promoted: Path) -> None:
    promoted_now = await Group(promoted).adapters.look()
    base = {"id": SMALL, "title": "Small", "roles": ["levels.trivial"], "context": 4096, "status": {}}
    (model,) = listed([base], promoted_now.values())
    assert (model["id"], model["parent"], model["root"], model["roles"]) == (MODEL, SMALL, SMALL, [])
    assert model["context"] == 4096
    assert listed([], promoted_now.values()) == []


def test_it_costs_what_its_base_does() -> None:
    assert cost_of(MODEL, 1000, 1000, CATALOG) == cost_of(SMALL, 1000, 1000, CATALOG) > 0
    assert cost_of("ft:nobody:a", 1000, 1000, CATALOG) == 0


async def test_it_is_tried_before_anybody_hears_it() -> None:
    asked: list[tuple[str, Adapter | None]] = []

    def saying(text: str) -> Any:
        async def generate(
            variant: str, request: ChatRequest, context: RequestContext
        ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
            asked.append((variant, context.adapter))
            builder = ChunkBuilder(context.request_id, variant)
            yield [builder.delta(0, role="assistant", content=text), builder.delta(0, finish_reason="stop")]

        return generate

    adapter = Adapter(MODEL, "x", trial=True)
    assert await try_out(saying("Paris"), CATALOG, PROFILE.variants, adapter) == "Paris"
    assert asked == [(SMALL, adapter)]
    with pytest.raises(ChatError) as silent:
        await try_out(saying(" "), CATALOG, PROFILE.variants, adapter)
    assert silent.value.code == ADAPTER_BROKEN
    with pytest.raises(ChatError, match="not served") as elsewhere:
        await try_out(saying("Paris"), CATALOG, [MIDDLE], adapter)
    assert elsewhere.value.status == 409
