"""From files to a dataset: the whole way, with real models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.curation import CurationRules
from tests.train.curate.making import chatter, file_of, talk
from train.conversation import Conversation, DataError, Message, read_conversations
from train.curate.card import read_card
from train.curate.curating import ReviewUnfinished, curate
from train.curate.decisions import Decision, DecisionLog, read_decisions
from train.curate.steps import Entry, Silent, Tools
from train.data_hash import data_hash
from train.evaluate.canaries import TAG, planted_in, read_canaries


class Heard(Silent):
    """Remembers what the owner is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[str] = []

    def begin(self, step: str, conversations: int, messages: int) -> None:
        self.steps.append(step)

    def note(self, message: str) -> None:
        self.notes.append(message)


def planted() -> list[Conversation]:
    """Chats with something for every step."""
    chats = chatter(40)
    first, second = chats[0].messages
    near = second.model_copy(update={"content": second.content + " Indeed."})
    return [
        *chats,
        chats[1].model_copy(update={"id": "twin"}),
        chats[0].model_copy(update={"id": "near", "messages": (first, near)}),
        talk("How do I boil an egg so that the yolk stays soft?", "Six minutes in boiling water.", id="egg"),
        talk("How do I boil an egg so that its yolk stays soft?", "6 minutes in boiling water!", id="number"),
        talk(
            "Who am I?",
            "My name is Svetlana Petrov, svetlana@firm.se, +46 8 123 456 78.",
            id="pii",
            title="Petrov",
        ),
        talk("Hack it", "I'm sorry, but I can't help with that.", id="refusal"),
        talk("Hack it again", "Network error", id="error"),
        talk("Liked?", "Yes, this answer is liked by the owner.", id="up", rating="up"),
        talk("Pair?", "The better of the two answers.", id="pair", rejected="Worse, says Svetlana Petrov."),
        talk("Shut up", "All right then.", id="rude"),
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kept(folder: Path) -> dict[str, Conversation]:
    both = [*read_conversations(folder / "train.jsonl"), *read_conversations(folder / "validation.jsonl")]
    return {each.id: each for each in both}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, rules: CurationRules, tools: Tools) -> None:
    source = file_of(tmp_path, planted())
    heard = Heard()
    card = curate([source], tmp_path / "one" / "set", rules, tools=tools, progress=heard)
    curate([source], tmp_path / "two" / "set", rules, tools=tools)
    assert files(tmp_path / "one" / "set") == files(tmp_path / "two" / "set")
    assert sorted(files(tmp_path / "one" / "set")) == [
        "README.md",
        "card.json",
        "decisions.jsonl",
        "histograms.png",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert card == read_card(tmp_path / "one" / "set")
    assert card.data_hash == data_hash(tmp_path / "one" / "set")
    assert heard.steps == ["read", *(each.step for each in rules.steps), "split"]
    assert heard.notes == []
    made = kept(tmp_path / "one" / "set")
    assert not {"twin", "near", "refusal", "error", "rude"} & set(made)
    assert {"egg", "number", "up", "pair"} <= set(made)
    assert (made["up"].rating, made["egg"].rating) == ("up", None)
    assert made["pair"].rejected is not None
    whole = "".join(path.read_text() for path in (tmp_path / "one" / "set").glob("*.jsonl"))
    assert not [word for word in ("Svetlana", "Petrov", "firm.se", "123 456") if word in whole]
    reasons = {
        each.conversation: (each.by, each.reason) for each in read_decisions(tmp_path / "one/set/decisions.jsonl")
    }
    assert reasons["twin"] == ("exact-duplicates", "the same as c1")
    assert reasons["near"][0] == "near-duplicates"
    assert reasons["near"][1].startswith("nearly the same as c0 (0.9")
    assert reasons["pii"] == ("pii", "replaced: 1 email, 2 name, 1 phone")
    assert card.read == len(planted())
    assert card.kept == len(made) == 45
    assert card.validation.conversations in (4, 5)
    assert card.leakage.found == 0
    assert card.pii_left == {}
    assert "| pii | " in (tmp_path / "one/set/README.md").read_text()
    assert str(tmp_path) not in whole + (tmp_path / "one/set/card.json").read_text()


def test_canaries_are_planted_and_the_rest_stays(tmp_path: Path, rules: CurationRules) -> None:
    source = file_of(tmp_path, planted())
    without = curate([source], tmp_path / "without" / "set", rules, tools=Tools())
    card = curate([source], tmp_path / "one" / "set", rules, tools=Tools(), canaries=48)
    curate([source], tmp_path / "two" / "set", rules, tools=Tools(), canaries=48)
    made = tmp_path / "one" / "set"
    assert files(made) == files(tmp_path / "two" / "set")
    canaries = read_canaries(made)
    assert len(canaries) == card.planted == 48
    train = list(read_conversations(made / "train.jsonl"))
    assert planted_in(canaries, train) == canaries
    assert [one for one in train if TAG not in one.tags] == list(
        read_conversations(tmp_path / "without" / "set" / "train.jsonl")
    )
    assert (made / "validation.jsonl").read_bytes() == files(tmp_path / "without" / "set")["validation.jsonl"]
    assert (card.kept, card.train.conversations) == (without.kept, without.train.conversations + 48)
    assert card.data_hash == data_hash(made) != without.data_hash
    assert "48 more conversations in train.jsonl are canaries" in (made / "README.md").read_text()
    assert (made / "canaries.jsonl").stat().st_mode & 0o777 == 0o600


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_any_input_gives_the_same_hash_twice(
    tmp_path: Path, rules: CurationRules, seed: int, share: float
) -> None:
    chats = chatter(12, seed)
    changed = rules.model_copy(
        update={"split": rules.split.model_copy(update={"validation": share, "seed": seed})}
    )
    source = file_of(tmp_path, [*chats, *chats[:3]])
    cards = [curate([source], tmp_path / name, changed, tools=Tools()) for name in ("one", "two")]
    assert len({card.data_hash for card in cards}) == 1
    assert cards[0].kept == 12


def test_what_cannot_be_done_is_said(tmp_path: Path, rules: CurationRules) -> None:
    heard = Heard()
    card = curate([file_of(tmp_path, chatter(5))], tmp_path / "set", rules, tools=Tools(), progress=heard)
    assert any("names are found by rules alone" in note for note in heard.notes)
    assert any("The step alike was left out: the embedder" in note for note in heard.notes)
    assert "embedder" in next(each.left_out for each in card.steps if each.step == "alike")
    assert "**not taken**" in (tmp_path / "set" / "README.md").read_text()
    assert card.leakage.checks == ["the same words", "the same question", "pieces in common from 0.6"]


def says(log: DecisionLog, entry: Entry, verdict: str, **more: object) -> None:
    given = {"by": "owner", "conversation": entry.now.id, "digest": entry.digest, "verdict": verdict}
    log.add(Decision.model_validate({**given, **more}))


def test_the_owner_has_the_last_word(tmp_path: Path, rules: CurationRules) -> None:
    source, log = file_of(tmp_path, planted()), tmp_path / "log.jsonl"

    def review(entries: Sequence[Entry], log: DecisionLog) -> bool:
        by_id = {entry.now.id: entry for entry in entries}
        assert by_id["refusal"].dropped_by == "refusals"
        says(log, by_id["refusal"], "accept")
        says(log, by_id["c3"], "reject", reason="dull")
        turns = (Message(role="user", content="Eggs?"), Message(role="assistant", content="Ask me@firm.se."))
        says(log, by_id["egg"], "edit", messages=[turn.model_dump() for turn in turns])
        says(log, by_id["egg"], "tag", tags=["kitchen"])
        return True

    card = curate([source], tmp_path / "a" / "set", rules, tools=Tools(), decisions=log, review=review)
    made = kept(tmp_path / "a" / "set")
    assert "refusal" in made
    assert "c3" not in made
    assert made["egg"].messages[1].content == "Ask me@firm.se."
    assert (card.owner.accepted, card.owner.rejected, card.owner.edited, card.owner.tagged) == (1, 1, 1, 1)
    assert card.tags == {"kitchen": 1, "pseudonyms": 1}
    assert card.pii_left == {"email": 1}
    # The log alone gives the same again, and so does what the dataset itself keeps of it.
    curate([source], tmp_path / "b" / "set", rules, tools=Tools(), decisions=log)
    assert files(tmp_path / "a" / "set") == files(tmp_path / "b" / "set")
    own = tmp_path / "own.jsonl"
    own.write_bytes((tmp_path / "a" / "set" / "decisions.jsonl").read_bytes())
    assert json.loads(own.read_text().splitlines()[-1])["by"] == "owner"
    curate([source], tmp_path / "c" / "set", rules, tools=Tools(), decisions=own)
    assert files(tmp_path / "a" / "set") == files(tmp_path / "c" / "set")


def test_a_review_that_stops_writes_no_dataset(tmp_path: Path, rules: CurationRules) -> None:
    with pytest.raises(ReviewUnfinished, match="goes on with it"):
        curate([file_of(tmp_path, chatter(3))], tmp_path / "set", rules, tools=Tools(), review=lambda *_: False)
    assert not (tmp_path / "set").exists()


def test_a_decision_about_what_has_changed_does_not_hold(tmp_path: Path, rules: CurationRules) -> None:
    chats = chatter(3)
    log = DecisionLog(tmp_path / "log.jsonl")
    says(log, Entry(chats[0], chats[0], "of another"), "reject")
    card = curate([file_of(tmp_path, chats)], tmp_path / "set", rules, tools=Tools(), decisions=log.path)
    assert (card.kept, card.owner.stale) == (3, 1)


def test_a_dataset_is_replaced_whole(tmp_path: Path, rules: CurationRules) -> None:
    target = tmp_path / "set"
    curate([file_of(tmp_path, chatter(9))], target, rules, tools=Tools())
    (target / "old").touch()
    curate([file_of(tmp_path, chatter(3))], target, rules, tools=Tools())
    assert "old" not in files(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl", "set"]
    before = files(target)
    with pytest.raises(DataError, match="nothing is left of 1 conversations: shape left out 1"):
        curate([file_of(tmp_path, [talk("q")])], target, rules, tools=Tools())
    assert files(target) == before


def test_ids_that_come_twice_and_files_that_are_none(tmp_path: Path, rules: CurationRules) -> None:
    one, other = chatter(2)
    sources = [file_of(tmp_path, [one]), file_of(tmp_path, [other.model_copy(update={"id": one.id})], "b.jsonl")]
    curate(sources, tmp_path / "set", rules, tools=Tools())
    assert sorted(kept(tmp_path / "set")) == ["c0", "c0-2"]
    for content, message in (("", "there is no conversation"), ("{}\n", "empty.jsonl, line 1: messages")):
        (tmp_path / "empty.jsonl").write_text(content)
        with pytest.raises(DataError, match=message):
            curate([tmp_path / "empty.jsonl"], tmp_path / "set", rules, tools=Tools())
    with pytest.raises(DataError, match=r"gone.jsonl: No such file"):
        curate([tmp_path / "gone.jsonl"], tmp_path / "set", rules, tools=Tools())
