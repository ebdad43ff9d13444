from __future__ import annotations

import pytest

from deployments.cache.answer import CachedAnswer, Lookup
from deployments.chunks import ChunkBuilder, fold, token_usage


@pytest.mark.parametrize("reasoning", [None, "Let me think"])
@pytest.mark.parametrize("content", ["Everest, 8849 m. 🏔", ""])
def test_a_replayed_answer_folds_back_into_itself(content: str, reasoning: str | None) -> None:
    builder = ChunkBuilder("first", "qwen3-8b")
    fresh = [builder.delta(0, role="assistant", content="")]
    fresh += [builder.delta(0, reasoning=reasoning)] if reasoning else []
    fresh += [builder.delta(0, content=char) for char in content]
    fresh += [builder.delta(0, finish_reason="stop"), builder.usage(token_usage(20, 7))]
    kept = CachedAnswer.of(fold(fresh))
    replayed = list(kept.chunks("second"))
    again = fold(replayed)
    assert CachedAnswer.of(again).__dict__ | {"created": 0} == kept.__dict__ | {"created": 0}
    assert again.id == "chatcmpl-second"
    assert again.choices[0].message.content == content
    assert getattr(again.choices[0].message, "reasoning_content", None) == reasoning
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == 20, "nothing was computed"
    assert replayed[0].choices[0].delta.role == "assistant"
    assert replayed[-1].choices == []


def test_only_a_miss_with_a_key_is_stored() -> None:
    answer = CachedAnswer("v", "text", None, 1, 1, 0)
    assert Lookup("miss", exact_key="k").storable
    assert not Lookup("bypass").storable
    assert not Lookup("exact", answer=answer, exact_key="k").storable
