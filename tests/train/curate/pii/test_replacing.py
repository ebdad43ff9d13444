"""What stands in for personal information: the same for the same, of its kind, and nothing is replaced twice."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.curation import Pii
from tests.train.curate.making import talk
from tests.train.curate.pii.make_labelled import VALUES, _card, _email, _iban, _phone
from train.conversation import Conversation
from train.curate.pii.finder import Finder
from train.curate.pii.found import Found, without_overlaps
from train.curate.pii.model import PiiModel
from train.curate.pii.replacing import Replaced, Replacer

RULES = Replacer(Finder(Pii(step="pii"), None))


def replaced(*texts: str, by: Replacer = RULES, **more: str) -> Replaced:
    [made] = by.replace([talk(*texts, **more)])
    return made


def texts(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def test_the_same_is_the_same_throughout_a_conversation() -> None:
    made = replaced(
        "My name is Ingrid Dahlgren, ingrid@firm.se, card 4111 1111 1111 1111, call +46 8 123 456 78.",
        "Dear Ingrid,\nINGRID, Ms Dahlgren, card 4111-1111-1111-1111 and Ingrid@Firm.se are noted.",
        title="Ingrid's mail",
        rejected="No, Ingrid.",
    )
    asked, answered = texts(made.conversation)
    given, family = re.search(r"My name is (\w+) (\w+),", asked).groups()  # type: ignore[union-attr]
    assert asked.count("person1@example.com") == answered.count("person1@example.com") == 1
    assert f"Dear {given}," in answered
    assert f"{given.upper()}, Ms {family}," in answered
    assert (made.conversation.title, made.conversation.rejected) == (f"{given}'s mail", f"No, {given}.")
    assert re.search(r"card 4\d{3} \d{4} \d{4} \d{4},", asked)
    assert re.search(r"card 4\d{3}-\d{4}-\d{4}-\d{4} ", answered)
    whole = "".join([asked, answered, made.conversation.title]).lower()
    assert not {word for word in ("ingrid", "dahlgren", "firm", "4111", "123 456") if word in whole}


def test_what_told_it_once_tells_it_everywhere() -> None:
    made = replaced("my phone: 2126345678", "I wrote down 2126345678, and not 12126345678.")
    assert texts(made.conversation) == [
        "my phone: 202-555-0101",
        "I wrote down 202-555-0101, and not 12126345678.",
    ]


def test_another_conversation_begins_anew() -> None:
    made = list(RULES.replace([talk("mail a@firm.se", "ok"), talk("mail b@firm.se", "ok")]))
    assert [texts(each.conversation)[0] for each in made] == ["mail person1@example.com"] * 2


def test_a_pseudonym_that_stands_there_already_is_not_taken() -> None:
    made = replaced("person1@example.com is an example, me@firm.se is mine", "My name is Robin")
    assert texts(made.conversation)[0] == "person1@example.com is an example, person2@example.com is mine"
    assert "Alex" not in texts(replaced("Alex met her.", "my name is Svetlana").conversation)[1]


def test_a_private_key_keeps_its_frame() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
    made = texts(replaced(f"it is\n{key}\nthere", "ok").conversation)[0]
    assert re.fullmatch(
        r"it is\n-----BEGIN RSA PRIVATE KEY-----\nEXAMPLE\d+\n-----END RSA PRIVATE KEY-----\nthere", made
    )


def test_what_is_to_be_kept_is_kept_and_what_is_always_replaced_is() -> None:
    rules = Pii.model_validate({"step": "pii", "keep": ["Shop@Firm.se"], "replace": ["Qwenda"]})
    made = replaced("Qwenda says: write to shop@firm.se", "ok", by=Replacer(Finder(rules, None)))
    assert texts(made.conversation)[0] == "Alex says: write to shop@firm.se"


def test_only_the_kinds_that_are_asked_for() -> None:
    rules = Pii.model_validate({"step": "pii", "kinds": ["email"]})
    made = replaced("a@firm.se from 93.184.216.34", "ok", by=Replacer(Finder(rules, None)))
    assert texts(made.conversation)[0] == "person1@example.com from 93.184.216.34"


SAID = ("My name is Ingrid Dahlgren. ", "Dear Tomasz,\n", "tel ", "key: ", "password is x9!abcd ", " and ")
MADE = st.tuples(st.sampled_from(sorted(VALUES)), st.randoms(use_true_random=False))
PIECES = st.lists(
    st.one_of(st.text(max_size=30), st.sampled_from(SAID), MADE.map(lambda pair: VALUES[pair[0]][1](pair[1]))),
    max_size=8,
)


@settings(max_examples=40)
@given(PIECES, PIECES)
def test_twice_is_as_once(asked: list[str], answered: list[str]) -> None:
    once = replaced(" ".join(asked), " ".join(answered)).conversation
    [twice] = RULES.replace([once])
    assert twice.conversation == once
    assert not twice.counts


@settings(max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(2, 6))
def test_different_ones_stay_different_and_the_same_the_same(r: object, times: int) -> None:
    for make in (_email, _phone, _card, _iban):
        one, other = make(r), make(r)  # type: ignore[arg-type]
        told = [f"call or pay {one} now"] * times + [f"call or pay {other} now"]
        made = texts(replaced(*told).conversation)
        assert len(set(made[:times])) == 1
        assert (made[0] == made[-1]) == (one == other)
        assert one not in "".join(made)


def test_with_the_model_twice_is_as_once(pii_model: PiiModel) -> None:
    by = Replacer(Finder(Pii(step="pii"), pii_model))
    chat = talk(
        "I told Priya that we meet at 12 Kingsley Road; Wolfgang Eberhardt comes too, hi im maria",
        "Then Priya and Wolfgang know.\n```python\nmaria = Counter()\n```",
    )
    [once] = by.replace([chat])
    assert not re.search(r"Priya|Wolfgang|Eberhardt|Kingsley", "".join(texts(once.conversation)))
    assert "maria = Counter()" in texts(once.conversation)[1]
    [twice] = by.replace([once.conversation])
    assert twice.conversation == once.conversation


def test_the_model_reads_long_texts_whole(pii_model: PiiModel) -> None:
    text = "The weather was fine and nothing happened. " * 40 + "My friend Svetlana Petrov agreed."
    [labels] = pii_model.label([text])
    assert {text[each.start : each.end] for each in labels} == {"Svetlana", "Petrov"}
    assert pii_model.label(["", "  "]) == [[], []]
    assert all(a.start <= b.start for a, b in pairwise(labels))


def test_of_two_that_overlap_the_surer_stays() -> None:
    found = [Found(0, 9, "phone", "x"), Found(4, 20, "iban", "y"), Found(25, 30, "name", "z")]
    assert without_overlaps(found) == found[1:]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "a." * 50_000,
        "1 " * 8_000,
        "A" * 50_000 + "@",
        "eyJ" * 30_000,
        "-----BEGIN RSA PRIVATE KEY-----" * 500,
        "1234-" * 4_000,
        "Dear " * 20_000,
        "Anna " * 20_000,
        "12 Big " * 10_000,
    ],
)
def test_no_text_takes_forever(text: str) -> None:
    Finder(Pii(step="pii"), None).find([text])


def test_a_person_called_as_our_pseudonyms_are_is_replaced() -> None:
    once = replaced("My name is Robin Ellis.", "Dear Robin,\nwelcome, Mr Ellis.").conversation
    assert not re.search("Robin|Ellis", "".join(texts(once)))
    [twice] = RULES.replace([once])
    assert twice.conversation == once


def test_what_is_always_replaced_is_though_it_may_be_a_pseudonym() -> None:
    rules = Pii.model_validate({"step": "pii", "replace": ["Alex", "Robin"]})
    by = Replacer(Finder(rules, None))
    once = replaced("My name is Ingrid. Ask Alex, or Robin.", "ok", by=by).conversation
    assert not re.search("Ingrid|Alex|Robin", "".join(texts(once)))
    [twice] = by.replace([once])
    assert twice.conversation == once


@pytest.mark.parametrize(
    "text",
    [
        "send('jane.doe@acme.com')",
        "Jane,4111111111111111,12/27",
        "4111111111111111,123",
        "4111 1111 1111 1111/12/27",
        "4111 1111 1111 1111 123",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111.1111.1111.1111",
        "My SSN is 536 22 8145",
        "pay DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        "Phone no: 020 7183 8750",
        "Tel. Nr: 030 90182030",
        "mobile no 07911 123456",
        "ana@empresa.com.py",
        "ion@firma.md",
    ],
)
def test_it_is_found_whatever_stands_beside_it(text: str) -> None:
    assert sum(replaced(text, "ok").counts.values()) == 1


@pytest.mark.parametrize(
    "text", ["0.4111111111111111", "order no 020 7183 8750", "a4111111111111111", "build 536 22 8145"]
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert not replaced(text, "ok").counts
