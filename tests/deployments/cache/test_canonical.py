from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs.routing import CacheRules
from deployments.cache.canonical import CacheKeys, cache_keys
from deployments.cache.eligibility import MAX_QUERY_CHARS, TASK_PREFIX
from deployments.contract import ChatRequest, CompletionRequest, RequestContext

RULES = CacheRules()
USER = {"role": "user", "content": "What is the tallest mountain?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CONTEXT = RequestContext("r1", key_id="key_a")


def keys(*messages: dict[str, Any], context: RequestContext = CONTEXT, **fields: Any) -> CacheKeys | None:
    request = ChatRequest.model_validate({"messages": list(messages) or [USER], **fields})
    return cache_keys(request, context, RULES)


def some(found: CacheKeys | None) -> CacheKeys:
    assert found is not None
    return found


BASE = some(keys())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "ann"},
        {"metadata": {"a": 1}},
        {"temperature": None, "n": 1, "seed": None},
    ],
)
def test_what_cannot_change_the_answer_does_not_change_the_keys(fields: dict[str, Any]) -> None:
    assert keys(**fields) == BASE


def test_another_request_id_and_time_do_not_change_the_keys_and_both_limits_names_are_one() -> None:
    assert keys(context=RequestContext("r2", key_id="key_a", received=5.0, session="s")) == BASE
    assert keys(max_tokens=9) == keys(max_completion_tokens=9) != BASE


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.1},
        {"temperature": 0},
        {"top_p": 0.5},
        {"max_tokens": 10},
        {"model": "qwen3-8b"},
        {"stop": ["x"]},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"presence_penalty": 1.0},
        {"min_p": 0.1},
    ],
)
def test_what_can_change_the_answer_changes_both_keys(fields: dict[str, Any]) -> None:
    other = some(keys(**fields))
    assert other.exact != BASE.exact
    assert other.fingerprint != BASE.fingerprint is not None
    assert other.fingerprint is not None


@pytest.mark.parametrize(
    "context", [RequestContext("r1", key_id="key_b"), RequestContext("r1", key_id="key_a", device="mobile")]
)
def test_nobody_shares_with_another_key_or_device_class(context: RequestContext) -> None:
    other = some(keys(context=context))
    assert other.exact != BASE.exact
    assert other.fingerprint != BASE.fingerprint


def test_a_system_prompt_changes_both_keys_and_a_rewording_only_the_exact_one() -> None:
    with_system = some(keys(SYSTEM, USER))
    assert with_system.exact != BASE.exact
    assert with_system.fingerprint not in (None, BASE.fingerprint)
    reworded = some(keys({"role": "user", "content": "Which mountain is the tallest?"}))
    assert reworded.fingerprint == BASE.fingerprint
    assert reworded.exact != BASE.exact
    assert reworded.query == "Which mountain is the tallest?"


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([USER, {"role": "assistant", "content": "Everest", "name": "guide"}, USER], {}),
        ([USER, {"role": "assistant", "content": "Everest"}], {}),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], {}),
        ([USER], {"seed": 1}),
        ([USER], {"seed": 0}),
        ([USER], {"response_format": {"type": "json_object"}}),
        ([USER], {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
        ([USER], {"logit_bias": {"1": 5}}),
        ([{"role": "user", "content": "x" * (MAX_QUERY_CHARS + 1)}], {}),
        ([{"role": "user", "content": "  "}], {}),
        ([{"role": "user", "content": None}], {}),
        ([{"role": "user", "content": f"\n{TASK_PREFIX} make a title"}], {}),
    ],
)
def test_what_wording_alone_does_not_decide_is_looked_up_exactly_only(
    messages: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    found = some(keys(*messages, **fields))
    assert found.fingerprint is None
    assert found.exact != BASE.exact


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([USER], {"tools": [TOOL]}),
        ([USER], {"n": 2}),
        ([USER], {"logprobs": True}),
        ([USER], {"temperature": 1.5}),
        ([IMAGE], {}),
    ],
)
def test_what_is_not_one_repeatable_text_never_touches_the_cache(
    messages: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    assert keys(*messages, **fields) is None


def test_bypass_raw_prompts_and_a_disabled_cache_have_no_keys_and_refresh_has_the_usual_ones() -> None:
    assert keys(context=RequestContext("r1", key_id="key_a", cache="bypass")) is None
    assert keys(context=RequestContext("r1", key_id="key_a", cache="refresh")) == BASE
    raw = CompletionRequest.model_validate({"prompt": "What is"}).as_chat("What is")
    assert cache_keys(raw, CONTEXT, RULES) is None
    request = ChatRequest.model_validate({"messages": [USER]})
    assert cache_keys(request, CONTEXT, CacheRules(enabled=False)) is None


contents = st.text(max_size=20) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)}), max_size=2
)


@settings(max_examples=200)
@given(contents, contents, st.sampled_from(["k1", "k2"]), st.sampled_from(["k1", "k2"]))
def test_exact_keys_are_equal_just_when_content_and_asker_are(a: Any, b: Any, asker: str, other: str) -> None:
    one = keys({"role": "user", "content": a}, context=RequestContext("1", key_id=asker))
    two = keys({"role": "user", "content": b}, context=RequestContext("2", key_id=other))
    assume(one is not None and two is not None)  # (Some words want no cache at all.)
    one, two = some(one), some(two)
    assert (one.exact == two.exact) == ((a, asker) == (b, other))


def test_who_asks_for_the_best_is_not_served_what_thrift_was_given() -> None:
    thrift, best = (some(keys(context=replace(CONTEXT, preference=name))) for name in ("economy", "best"))
    assert thrift.exact != best.exact
    assert thrift.fingerprint != best.fingerprint


def test_where_the_owner_shares_keys_serve_each_other_and_never_the_entries_of_before() -> None:
    shared = CacheRules(scope="shared")
    request = ChatRequest.model_validate({"messages": [USER]})
    one, other = (some(cache_keys(request, RequestContext("r", key_id=key), shared)) for key in ("key_a", "key_b"))
    assert one == other
    assert one.exact != BASE.exact
    assert one.fingerprint != BASE.fingerprint
    named = some(cache_keys(request, RequestContext("r", key_id="everyone"), RULES))
    assert named.exact != one.exact, "a key of the shared scope's name gains nothing"


def test_no_two_of_many_askers_share_a_key() -> None:
    """The same words by keys, devices, preferences and system prompts that resemble each other."""
    names = [
        "key_a",
        "key_a ",
        "KEY_A",
        "key_a\x00",
        "own:key_a",
        "shared:key_a",
        "everyone",
        "",
        "key_",
        "key_ab",
    ]
    systems = [None, "", " ", "Be brief.", "Be brief. ", "be brief.", "Be brief.\n", "Be brief"]
    contexts = [
        RequestContext("r", key_id=name, device=device, preference=preference)
        for name in names
        for device in ("server", "mobile")
        for preference in (None, "economy", "best")
    ]
    found = []
    for context in contexts:
        for system in systems:
            begin = [] if system is None else [{"role": "system", "content": system}]
            found.append(some(keys(*begin, USER, context=context)))
    assert len(found) * (len(found) - 1) / 2 > 100_000
    assert len({one.exact for one in found}) == len(found)
    assert len({one.fingerprint for one in found}) == len(found)


def test_a_follow_up_in_another_conversation_is_another_request() -> None:
    follow_up = {"role": "user", "content": "And in winter?"}
    told = [
        [
            {"role": "user", "content": f"How warm is {place}?"},
            {"role": "assistant", "content": "Warm."},
            follow_up,
        ]
        for place in ("Rome", "Oslo")
    ]
    rome, oslo = (some(keys(*messages)) for messages in told)
    assert rome.exact != oslo.exact
    assert None is not rome.fingerprint != oslo.fingerprint is not None, "not to a similar one either"
    assert rome.turn
    again = some(keys(*told[0][:2], {"role": "user", "content": "And in the winter?"}))
    assert again.fingerprint == rome.fingerprint, "the very same conversation so far"
    assert not BASE.turn


def test_the_keys_of_one_group_serve_each_other_where_the_owner_says_so() -> None:
    rules = CacheRules(scope="group")
    request = ChatRequest.model_validate({"messages": [USER]})

    def of(key: str, group: str | None) -> CacheKeys:
        return some(cache_keys(request, RequestContext("r", key_id=key, group=group), rules))

    assert of("key_a", "family") == of("key_b", "family")
    assert len({of(*asker).exact for asker in (("key_a", "family"), ("key_a", "work"), ("key_a", None))}) == 3
    assert of("family", None).scope != of("key_a", "family").scope, "a key of a group's name gains nothing"
    assert some(keys(context=replace(CONTEXT, group="family"))).exact == BASE.exact, "where keys are alone"


def test_what_rests_on_another_version_of_knowledge_is_another_answer() -> None:
    versions = [some(keys(USER, metadata={"knowledge": version})) for version in ("handbook@3", "handbook@4")]
    assert len({BASE.exact, *(one.exact for one in versions)}) == 3
    assert len({BASE.fingerprint, *(one.fingerprint for one in versions)}) == 3
    assert [one.tag for one in versions] == ["handbook@3", "handbook@4"]
    assert some(keys(USER, metadata={"title": "x"})).exact == BASE.exact, "other labels change no answer"


def test_to_name_no_model_is_to_let_the_router_decide() -> None:
    assert some(keys(USER, model="auto")) == BASE
    assert some(keys(USER, model="qwen3-8b")).exact != BASE.exact


def test_what_a_variant_has_said_is_not_told_to_a_key_that_may_not_ask_it() -> None:
    rules = CacheRules(scope="shared")
    request = ChatRequest.model_validate({"messages": [USER]})
    found = {
        some(cache_keys(request, RequestContext("r", key_id="key_a", variants=variants), rules)).exact
        for variants in (None, ("small",), ("small", "large"), ("large", "small"))
    }
    assert len(found) == 3
