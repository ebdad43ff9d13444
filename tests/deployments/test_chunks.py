from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction

from deployments.chunks import ChunkBuilder, fold, token_usage, tool_call_delta
from tests.splits import cut, places


@given(st.lists(st.tuples(st.text(max_size=20), places), min_size=1, max_size=3), st.randoms())
def test_interleaved_choices_fold_back_into_their_own_texts(
    answers: list[tuple[str, list[int]]], random: object
) -> None:
    builder = ChunkBuilder("r", "m")
    queues = [
        [builder.delta(n, content=piece) for piece in cut(text, at)] + [builder.delta(n, finish_reason="length")]
        for n, (text, at) in enumerate(answers)
    ]
    chunks = []
    while any(queues):
        chunks.append(random.choice([queue for queue in queues if queue]).pop(0))  # type: ignore[attr-defined]
    folded = fold(chunks)
    assert [choice.index for choice in folded.choices] == list(range(len(answers)))
    assert [choice.message.content for choice in folded.choices] == [text for text, _ in answers]
    assert {choice.finish_reason for choice in folded.choices} == {"length"}


def test_an_answer_folds_with_its_reasoning_logprobs_and_usage() -> None:
    builder = ChunkBuilder("r", "m")
    token = ChatCompletionTokenLogprob(token="a", bytes=[97], logprob=-0.5, top_logprobs=[])
    folded = fold(
        [
            builder.delta(0, role="assistant", content=""),
            builder.delta(0, reasoning="I "),
            builder.delta(0, reasoning="think"),
            builder.delta(0, content="a", logprobs=[token]),
            builder.delta(0, content="b", logprobs=[token, token]),
            builder.delta(0, finish_reason="stop"),
            builder.usage(token_usage(10, 4, cached=3, reasoning=2)),
        ]
    )
    choice = folded.choices[0]
    assert (folded.id, folded.model, folded.created) == ("chatcmpl-r", "m", builder.created)
    assert choice.message.content == "ab"
    assert choice.message.reasoning_content == "I think"  # type: ignore[attr-defined]
    assert choice.logprobs is not None
    assert choice.logprobs.content == [token, token, token]
    assert folded.usage is not None
    assert (folded.usage.prompt_tokens, folded.usage.completion_tokens, folded.usage.total_tokens) == (10, 4, 14)
    assert folded.usage.prompt_tokens_details is not None
    assert folded.usage.prompt_tokens_details.cached_tokens == 3


def test_tool_calls_fold_whole_and_from_pieces_and_content_is_null_beside_them() -> None:
    builder = ChunkBuilder("r", "m")
    piece = ChoiceDeltaToolCall(index=1, function=ChoiceDeltaToolCallFunction(arguments=": 1}"))
    folded = fold(
        [
            builder.delta(0, role="assistant", content=""),
            builder.delta(0, tool_call=tool_call_delta(1, "call_b", "second", '{"x"')),
            builder.delta(0, tool_call=tool_call_delta(0, "call_a", "first", "{}")),
            builder.delta(0, tool_call=piece),
            builder.delta(0, finish_reason="tool_calls"),
        ]
    )
    message = folded.choices[0].message
    assert message.content is None
    assert folded.choices[0].finish_reason == "tool_calls"
    assert [call.model_dump(exclude_none=True) for call in message.tool_calls or []] == [
        {"id": "call_a", "type": "function", "function": {"name": "first", "arguments": "{}"}},
        {"id": "call_b", "type": "function", "function": {"name": "second", "arguments": '{"x": 1}'}},
    ]


def test_an_empty_answer_has_empty_content_and_no_answer_is_an_error() -> None:
    builder = ChunkBuilder("r", "m")
    assert fold([builder.delta(0, finish_reason="stop")]).choices[0].message.content == ""
    with pytest.raises(ValueError, match="at least one chunk"):
        fold([])


def test_a_delta_holds_no_nulls() -> None:
    sent = ChunkBuilder("r", "m").delta(0, content="a").model_dump(mode="json", exclude_unset=True)
    assert sent["choices"] == [{"index": 0, "delta": {"content": "a"}, "finish_reason": None, "logprobs": None}]
    assert "usage" not in sent
