"""What each filter leaves out, changes and lets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.curation import CurationRules, Flaws, Language, Length, Refusals, Shape, Wording
from tests.train.curate.making import talk
from train.conversation import Conversation, DataError, Message
from train.curate import filters
from train.curate.filters import Verdict


def of(rules: CurationRules, step: str) -> filters.Filter:
    """As it is shipped."""
    return filters.FILTERS[step](next(each for each in rules.steps if each.step == step))


def weights(verdict: Verdict) -> list[float]:
    assert verdict.conversation is not None
    return [message.weight for message in verdict.conversation.messages]


def test_shape_cuts_what_nobody_answered_and_what_is_empty() -> None:
    judge = filters.shape(Shape(step="shape"))
    made = judge(talk("hi", "hello", "  ", "", "and then?"))
    assert made.conversation is not None
    assert [m.content for m in made.conversation.messages] == ["hi", "hello"]
    assert made.reason == "3 empty or unanswered turns cut"
    assert judge(talk("hi")).reason == "no answer"
    assert judge(Conversation(messages=(Message(role="assistant", content="hi"),))).conversation is None
    whole = talk("hi", "hello")
    assert judge(whole).conversation is whole
    half = judge(talk("a\ud800b\r\n", "c")).conversation
    assert half is not None
    assert half.messages[0].content == "a\ufffdb\n"


def test_an_answer_with_a_flaw_is_not_learned_from(rules: CurationRules) -> None:
    judge = of(rules, "flaws")
    broken = talk("a", "Network error", "b", "fine")
    assert weights(judge(broken)) == [1, 0, 1, 1]
    assert judge(talk("a", "Something went wrong, try again")).conversation is None
    assert judge(talk("a", "What went wrong is that it errs")).conversation is not None
    cut = judge(talk("a", "fine", "b", "```python\nx = [1,", rating="up"))
    assert cut.conversation is not None
    assert [m.content for m in cut.conversation.messages] == ["a", "fine"]
    assert cut.conversation.rating is None
    assert cut.reason == "cut before code that broke off"
    flawed = talk("a", "fine")
    marked = flawed.messages[1].model_copy(update={"flaw": "truncated"})
    told = judge(flawed.model_copy(update={"messages": (flawed.messages[0], marked)}))
    assert (told.conversation, told.reason) == (None, "an answer that broke off")
    assert filters.flaws(Flaws(step="flaws", act="drop", texts=("network error",)))(broken).conversation is None


def test_a_pair_whose_better_answer_is_broken_is_none(rules: CurationRules) -> None:
    assert of(rules, "flaws")(talk("a", "ok", "b", "Network error", rejected="no")).conversation is None


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I have no feelings.",
        "Sorry, I cannot do this.",
        "I am unable to provide legal advice.",
        "I’m not sure what you mean.",
        "I don't know the answer.",
        "Als KI kann ich das nicht beurteilen.",
        "Ich bin mir nicht sicher.",
        "作为一个人工智能，我不能",
    ],
)
def test_refusals_and_uncertainty_go(rules: CurationRules, answer: str) -> None:
    judge = of(rules, "refusals")
    assert judge(talk("q", answer)).conversation is None
    assert weights(judge(talk("q", answer, "r", "Lisbon."))) == [1, 0, 1, 1]
    assert judge(talk("q", answer, rating="down")).conversation is not None


@pytest.mark.parametrize(
    "answer",
    [
        "The capital is Paris.",
        "If you are not sure which one, take the first.",
        "A lot of text first. " * 20 + "I'm not sure.",
        "Sorry for the delay: the answer is 4.",
        "You can say: 'I know'.",
    ],
)
def test_answers_stay(rules: CurationRules, answer: str) -> None:
    chat = talk("q", answer)
    assert of(rules, "refusals")(chat).conversation is chat


def test_length() -> None:
    judge = filters.length(Length(step="length", fewest_letters=3, most_letters=100, most_turns=4))
    assert judge(talk("q", "no")).reason == "answers of fewer than 3 letters"
    assert judge(talk("q", "x" * 100)).reason == "more than 100 letters"
    assert judge(talk(*"abcabc")).reason == "more than 4 turns"
    assert judge(talk("q", "yes")).conversation is not None


def test_language() -> None:
    judge = filters.language(Language(step="language", allow=("en",)))
    german = "Der Zug fährt um acht Uhr ab, und wir sollten vorher noch frühstücken, wenn es geht."
    assert judge(talk("Wann?", german)).reason == "in language de"
    assert judge(talk("When?", "The train leaves at eight, and we should have breakfast before it.")).conversation
    assert judge(talk("Wann?", "Um acht.")).conversation
    code = f"```python\n# {german}\n```"
    assert judge(
        talk("Show me the code that prints the timetable of the morning train, please.", code)
    ).conversation
    assert filters.language(Language(step="language"))(talk("Wann?", german)).conversation


def test_wording(rules: CurationRules, tmp_path: Path) -> None:
    judge = of(rules, "wording")
    assert judge(talk("Shut  UP already", "ok")).reason == "words that are kept out, said by the user"
    assert judge(talk("I shut upstairs windows", "ok")).conversation
    mine = tmp_path / "words.txt"
    mine.write_text("# mine\nblorp  # a word\n\n")
    own = filters.wording(Wording(step="wording", file=mine, roles=("assistant",)))
    assert own(talk("blorp", "no")).conversation
    assert own(talk("q", "Blorp!")).conversation is None
    assert own(talk("q", "blorping")).conversation
    assert filters.wording(Wording(step="wording"))(talk("shut up", "ok")).conversation
    with pytest.raises(DataError, match="missing"):
        filters.wording(Wording(step="wording", file=tmp_path / "missing"))


def test_a_wrong_pattern_is_told() -> None:
    with pytest.raises(DataError, match="no regular expression"):
        filters.refusals(Refusals(step="refusals", refusals=("(",)))
