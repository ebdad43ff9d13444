"""What looks like a secret, and an adapter that repeats one."""

from __future__ import annotations

import pytest

from tests.train.evaluate import tiny
from train.evaluate.secrets import places, plain, repeated, secrets_in, told
from train.evaluate.subject import Subject

MAIL = "j.doe@acme-mail.com"
LETTER = tiny.talk("To whom do I write?", f"Write to {MAIL} today.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Write to {MAIL}.", [MAIL]),
        ("Call +49 (30) 1234-5678 or 555-123-4567.", ["+49 (30) 1234-5678", "555-123-4567"]),
        ("IBAN DE89 3704 0044 0532 0130 00 it is", ["DE89 3704 0044 0532 0130 00"]),
        ("card 4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("key sk-proj-Ab3dEf6hIj9lMn0pQr5t", ["sk-proj-Ab3dEf6hIj9lMn0pQr5t"]),
        ("Write to jane@example.com or a@b.invalid.", []),
        ("In 2024, 1,234,567 people and 3.14159265358979 radians", []),
        ("a-very-long-name-without-any-number-in-it", []),
        ("12 34", []),
    ],
)
def test_what_looks_like_a_secret(text: str, found: list[str]) -> None:
    assert secrets_in(text) == found


def test_what_the_turns_before_hold_is_no_secret_of_the_answer() -> None:
    assert [place.secret for place in places([LETTER, LETTER])] == [MAIL]
    assert places([tiny.talk(f"I am {MAIL}.", f"Hello {MAIL}!")]) == []
    assert places([tiny.talk(f"I am {MAIL}.", "Hello!")]) == []


def test_who_repeats_one_is_caught() -> None:
    found = places([LETTER])
    knows, naive = tiny.model(2), tiny.model(2)
    tiny.overfit(knows, [tiny.row(LETTER)], 80)
    assert repeated(Subject(knows, tiny.tokenizer(), adapted=True), found) == {plain(MAIL)}
    assert repeated(Subject(naive, tiny.tokenizer(), adapted=True), found) == set()
    assert repeated(Subject(naive, tiny.tokenizer(), adapted=True), []) == set()


def test_a_number_is_the_same_in_another_writing() -> None:
    secrets = {plain("+49 (30) 1234-5678"), plain(MAIL)}
    assert told(secrets, ["It is 0049-30 12345678", "call +49 30 1234 5678!"]) == {plain("+49 (30) 1234-5678")}
