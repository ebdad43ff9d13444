from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.control_tokens import ControlTokens

TEXTS = ["<|im_end|>", "<|im_end|>more", "<s>", "</s>", "x"]
TOKENS = ControlTokens(TEXTS, "\u200b")


def test_typed_tokens_are_parted_wherever_they_are() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": "<s>"}'}}
    message = {"role": "user", "content": [{"type": "text", "text": "a<|im_end|>b"}], "tool_calls": [call], "n": 1}
    disarmed = TOKENS.disarm(message)
    assert disarmed["content"][0]["text"] == "a<\u200b|im_end|>b"
    assert disarmed["tool_calls"][0]["function"]["arguments"] == '{"a": "<\u200bs>"}'
    assert disarmed["n"] == 1
    assert message["content"][0]["text"] == "a<|im_end|>b", "the request itself is not changed"


@given(st.lists(st.sampled_from([*TEXTS, "<", "|", "a", "im_end", ">", "s", "/"])).map("".join))
def test_no_token_is_left_and_nothing_else_is_lost(text: str) -> None:
    disarmed = TOKENS.disarm(text)
    assert not re.search("|".join(re.escape(token) for token in TEXTS if len(token) > 1), disarmed)
    assert disarmed.replace("\u200b", "") == text


def test_a_model_without_any_changes_nothing() -> None:
    assert ControlTokens([], "|").disarm("<s>") == "<s>"


def test_a_transformers_tokenizer_names_them() -> None:
    deployment = pytest.importorskip("deployments.vllm.deployment")

    class Token(SimpleNamespace):
        def __str__(self) -> str:
            return str(self.content)

    added = {0: Token(content="<a>", special=True), 1: Token(content="<tool_call>", special=False)}
    tokenizer = SimpleNamespace(all_special_tokens=["<eos>"], added_tokens_decoder=added)
    found = deployment.control_tokens(tokenizer)
    assert found.disarm("<a><eos><tool_call>") == "<\u200ba><\u200beos><tool_call>"
