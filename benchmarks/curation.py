"""What curation finds and how fast it is: personal information in marked texts, near-duplicates that were made
from known ones, and messages per second of each step."""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import console, show
from configs.curation import AlikeDuplicates, CurationRules, NearDuplicates, Pii, load_curation
from configs.home import home
from train.conversation import Conversation, Message, write_conversations
from train.curate.curating import curate, load_tools
from train.curate.duplicates import jaccard, near_pairs, pieces
from train.curate.embedding import Embedder
from train.curate.normal import told
from train.curate.pii.finder import Finder
from train.curate.pii.scoring import read_labelled, score
from train.curate.steps import Silent, Tools

ROOT = Path(__file__).parents[1]
MARKED = ROOT / "tests" / "train" / "curate" / "pii"
SEED = 3
SAME_WORDS = {
    "shows": "displays",
    "every": "each",
    "because": "since",
    "which": "that",
    "start": "begin",
    "large": "big",
    "small": "little",
    "answers": "replies",
    "answer": "reply",
    "question": "query",
    "takes": "needs",
    "only": "just",
    "about": "on",
    "often": "frequently",
    "fast": "quick",
    "machine": "computer",
    "where": "wherever",
    "must": "has to",
    "also": "too",
    "before": "ahead of",
    "made": "created",
    "gives": "yields",
    "asks": "requests",
    "uses": "employs",
    "memory": "RAM",
    "told": "said",
    "wrong": "incorrect",
    "whole": "entire",
    "needs": "requires",
    "while": "as",
}


def main(conversations: int) -> None:
    """Three tables."""
    rules = load_curation()
    tools = load_tools(home(), rules, threads=2)
    for name, there in (("the embedder", tools.embedder), ("the model for names", tools.pii)):
        if there is None:
            console.print(f"[yellow]{name} is not in {home().models}: `groupqwen data curate` brings it[/yellow]")
    _personal(tools)
    texts = list(paragraphs())
    _duplicates(texts, rules, tools.embedder)
    _speed(texts, rules, tools, conversations)


def _personal(tools: Tools) -> None:
    rows = []
    for name in ("labelled", "unseen"):
        labelled = read_labelled(MARKED / f"{name}.jsonl")
        for how, model in (("model and rules", tools.pii), ("rules", None)):
            found = Finder(Pii(step="pii"), model).find([each.text for each in labelled])
            rows += [
                [name, how, kind, str(each.marked), f"{each.recall:.3f}", f"{each.precision:.3f}"]
                for kind, each in score(labelled, found).items()
            ]
    head = ["set", "by", "kind", "marked", "recall", "precision"]
    show("Personal information: covered to the last letter (recall), and right of what is found", head, rows)


def paragraphs() -> Iterator[tuple[str, str]]:
    """Headings and prose of the project's own documentation."""
    for path in sorted((ROOT / "docs").glob("*.md")):
        heading = path.stem
        for block in re.split(r"\n\n|\n(?=- )", path.read_text(encoding="utf-8")):
            block = block.removeprefix("- ")
            if block.startswith("#"):
                heading = block.lstrip("# ").split("\n")[0]
            elif block[:1].isalpha() and 150 <= len(block) <= 1500:
                yield f"What should I know about {heading}, as in {path.stem}?", re.sub(r"\s+", " ", block)


@dataclass(frozen=True)
class Change:
    """What is done to an answer to make a near-duplicate of it."""

    name: str
    make: Callable[[random.Random, str], str]


def _typos(r: random.Random, text: str) -> str:
    letters = list(text)
    for at in r.sample(range(len(letters)), max(1, len(letters) // 50)):
        letters[at] = r.choice("abcdefghijklmnopqrstuvwxyz")
    return "".join(letters)


def _without(r: random.Random, text: str) -> str:
    return " ".join(word for word in text.split() if r.random() >= 0.05)


def _framed(r: random.Random, text: str) -> str:
    return f"Sure! Here is what I found. {text} Let me know if you need anything else."


def _moved(r: random.Random, text: str) -> str:
    sentences = re.split(r"(?<=[.:;!?]) ", text)
    r.shuffle(sentences)
    return " ".join(sentences)


def _reworded(r: random.Random, text: str) -> str:
    return " ".join(SAME_WORDS.get(word, word) for word in text.split())


def _half(r: random.Random, text: str) -> str:
    return text[: len(text) * 6 // 10]


CHANGES = (
    Change("case and spaces", lambda r, text: text.upper().replace(" ", "  ")),
    Change("1 letter in 50 wrong", _typos),
    Change("1 word in 20 gone", _without),
    Change("an opening and a closing", _framed),
    Change("sentences in another order", _moved),
    Change("words replaced by others", _reworded),
    Change("words replaced, other order", lambda r, text: _moved(r, _reworded(r, text))),
    Change("cut off at 60%", _half),
)


def _chat(question: str, answer: str, name: str) -> Conversation:
    return Conversation(
        id=name, messages=(Message(role="user", content=question), Message(role="assistant", content=answer))
    )


def _duplicates(texts: list[tuple[str, str]], rules: CurationRules, embedder: Embedder | None) -> None:
    near = next(each for each in rules.steps if isinstance(each, NearDuplicates))
    alike = next(each for each in rules.steps if isinstance(each, AlikeDuplicates))
    r = random.Random(SEED)
    originals = [_chat(question, answer, f"o{at}") for at, (question, answer) in enumerate(texts)]
    vectors = embedder.embed([told(each) for each in originals]) if embedder else None
    rows = []
    for change in CHANGES:
        made = [
            _chat(each.messages[0].content, change.make(r, each.messages[1].content), "m") for each in originals
        ]
        both = [*originals, *made]
        count = len(originals)
        found = {
            (p.first, p.second) for p in near_pairs(both, near.near, near.letters) if p.second == p.first + count
        }
        sets = [pieces(told(each), near.letters) for each in both]
        likeness = {at: jaccard(sets[at], sets[at + count]) for at, _ in found}
        row = [change.name]
        row += [f"{sum(v >= least for v in likeness.values()) / count:.3f}" for least in (near.same, near.near)]
        if embedder is not None and vectors is not None:
            cosines = (vectors * embedder.embed([told(each) for each in made])).sum(axis=1)
            row += [f"{(cosines >= least).mean():.3f}" for least in (alike.same, alike.near)]
        rows.append(row)
    head = ["what was done", f"MinHash ≥ {near.same}", f"≥ {near.near}"]
    head += [f"cosine ≥ {alike.same}", f"≥ {alike.near}"] if embedder else []
    show(f"Near-duplicates of {len(originals)} conversations: recall at two thresholds", head, rows)
    if vectors is not None:
        cosines = vectors @ vectors.T
        pairs = len(vectors) * (len(vectors) - 1) // 2
        others = [((cosines >= least).sum() - len(vectors)) / 2 / pairs for least in (alike.same, alike.near)]
        of_words = [p.likeness for p in near_pairs(originals, near.near, near.letters)]
        same = sum(likeness >= near.same for likeness in of_words)
        console.print(
            f"Of {pairs:,} pairs of different originals: MinHash {same / pairs:.5%} "
            f"and {len(of_words) / pairs:.5%}, cosine {others[0]:.5%} and {others[1]:.5%}"
        )


def speed(step: str, messages: int, seconds: float, processor: float) -> list[str]:
    """A row: by the clock, and by the processor's time, which a busy machine does not stretch."""
    return [
        step,
        f"{messages:,}",
        f"{seconds:.2f}",
        f"{messages / seconds:,.0f}",
        f"{messages / max(processor, 1e-3):,.0f}",
    ]


class Timed(Silent):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def begin(self, step: str, conversations: int, messages: int) -> None:
        self._now = (step, messages, time.perf_counter(), time.process_time())

    def end(self) -> None:
        step, messages, started, worked = self._now
        if messages:
            self.rows.append(speed(step, messages, time.perf_counter() - started, time.process_time() - worked))


def _speed(texts: list[tuple[str, str]], rules: CurationRules, tools: Tools, conversations: int) -> None:
    r = random.Random(SEED)
    chats = []
    for at in range(conversations):
        question, answer = texts[at % len(texts)]
        chats.append(_chat(f"{question} ({at})", _moved(r, _without(r, answer)), f"c{at}"))
    allowed = [
        each.model_copy(update={"allow": ("en",)}) if each.step == "language" else each for each in rules.steps
    ]
    timed = Timed()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "chats.jsonl"
        write_conversations(source, chats)
        changed = rules.model_copy(update={"steps": tuple(allowed)})
        started, worked = time.perf_counter(), time.process_time()
        curate([source], Path(folder) / "set", changed, tools=tools, progress=timed)
        seconds, processor = time.perf_counter() - started, time.process_time() - worked
    messages = 2 * conversations
    letters = sum(len(each.content) for chat in chats for each in chat.messages) / messages
    timed.rows.append(speed("the whole, with reading and writing", messages, seconds, processor))
    head = ["step", "messages", "seconds", "messages/s", "messages per second of processor"]
    show(f"Speed: messages of {letters:.0f} letters, two threads for the models", head, timed.rows)
