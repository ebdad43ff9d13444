from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contract import ChatError
from serve_app.nesting import check_nesting, depth

LIMIT = 64
documents = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{}\u2200é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\[{', max_size=4), inner, max_size=3),
    max_leaves=30,
)


def levels(value: Any) -> int:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return 1 + max(map(levels, items), default=0)
    return 0


@given(value=documents, ascii_only=st.booleans(), indent=st.none() | st.just(2))
def test_it_is_what_the_parsed_document_has(value: Any, ascii_only: bool, indent: int | None) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert depth(document.encode()) == levels(json.loads(document))


@given(document=st.binary(max_size=200) | st.text('[]{}"\\', max_size=200).map(str.encode))
def test_what_is_no_json_is_counted_all_the_same(document: bytes) -> None:
    assert 0 <= depth(document) <= len(document)


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_the_limit_itself_is_allowed_and_one_more_is_not(pair: tuple[bytes, bytes]) -> None:
    times = LIMIT // (2 if pair[0].startswith(b"[{") else 1)
    start, end = pair
    check_nesting(start * times + b"1" + end * times, LIMIT)
    with pytest.raises(ChatError, match="deeper than 64") as refused:
        check_nesting(b"[" + start * times + b"1" + end * times + b"]", LIMIT)
    assert (refused.value.status, refused.value.code) == (400, "json_too_deep")
    assert refused.value.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"a":' * 100_000, b"[[]," * 100_000])
def test_what_has_no_end_is_too_deep_as_well(document: bytes) -> None:
    with pytest.raises(ChatError, match="deeper"):
        check_nesting(document, LIMIT)


@pytest.mark.parametrize(
    "document", [b"", b"[]" * 3 * 2**20, b'"' + b"[" * 1000 + b'"', rb'["\"' + b"[" * 1000 + b'"]', b"]" * 1000]
)
def test_breadth_and_text_are_no_depth(document: bytes) -> None:
    check_nesting(document, LIMIT)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_another_encoding_in_which_depth_could_hide_is_refused(encoding: str) -> None:
    hidden = ('["\u2200",' + "[" * 100 + "]" * 100 + "]").encode(encoding)
    with pytest.raises(ChatError, match="UTF-8"):
        check_nesting(hidden, LIMIT)


def test_a_byte_order_mark_is_allowed() -> None:
    check_nesting("{}".encode("utf-8-sig"), LIMIT)
