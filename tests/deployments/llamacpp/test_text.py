from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deployments.llamacpp.text import TextAssembler
from tests.splits import cut, places


def assemble(pieces: list[bytes], stop: list[str]) -> tuple[str, bool]:
    assembler = TextAssembler(stop)
    text = "".join(assembler.push(piece) for piece in pieces)
    return text + assembler.finish(), assembler.stopped


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode), places)
@example("日本語🙂".encode(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
@example("🙂".encode()[:3], [1, 2])
def test_any_split_of_any_bytes_decodes_as_the_whole(data: bytes, at: list[int]) -> None:
    assert assemble(cut(data, at), []) == (data.decode("utf-8", "replace"), False)


letters = st.text("ab\n<é🙂", max_size=30)
stops = st.lists(st.text("ab\n<é🙂", min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=500)
@given(letters, stops, places)
def test_text_ends_before_the_earliest_stop_however_it_is_split(text: str, stop: list[str], at: list[int]) -> None:
    assume(not any(a != b and a in b for a in stop for b in stop))
    met = [text.find(one) for one in stop if one in text]
    expected = text[: min(met)] if met else text
    assert assemble(cut(text.encode(), at), stop) == (expected, bool(met))


@settings(max_examples=500)
@given(letters, stops, places)
@example("xabc", ["abc", "b"], [3])
def test_stops_that_hold_one_another_end_the_text_at_one_place_for_every_split(
    text: str, stop: list[str], at: list[int]
) -> None:
    assert assemble(cut(text.encode(), at), stop) == assemble([text.encode()], stop)


def test_text_is_given_out_at_once_and_only_what_may_become_a_stop_is_held() -> None:
    assembler = TextAssembler(["</end>", "STOP"])
    assert assembler.push(b"hello </") == "hello "
    assert assembler.push(b"en") == ""
    assert assembler.push(b"x ST") == "</enx "
    assert assembler.push(b"OP and more") == ""
    assert assembler.stopped
    assert assembler.push(b"never") == ""
    assert assembler.finish() == ""


def test_a_character_is_given_out_with_its_last_byte() -> None:
    assembler = TextAssembler()
    assert [assembler.push(bytes([byte])) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]


@pytest.mark.parametrize("held", ["S", "STO"])
def test_the_start_of_a_stop_that_never_came_is_given_out_at_the_end(held: str) -> None:
    assembler = TextAssembler(["STOP"])
    assert assembler.push(f"a{held}".encode()) == "a"
    assert assembler.finish() == held
    assert not assembler.stopped
