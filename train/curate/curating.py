"""From imported chats to a dataset: read, take the steps, let the owner look, split, check, write."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.catalog import load_catalog
from configs.curation import AlikeDuplicates, CurationRules, NearDuplicates, Pii
from configs.home import Home
from train.conversation import Conversation, DataError, read_conversations
from train.curate.card import Card, Leakage, OwnerReport, Part, SourceFile, StepReport
from train.curate.dataset import write_dataset
from train.curate.decisions import DecisionLog, Standing
from train.curate.duplicates import Pair
from train.curate.embedding import Embedder
from train.curate.pii.finder import Finder
from train.curate.pii.model import PiiModel
from train.curate.splitting import LeakCheck, split_without_leaks
from train.curate.steps import Entry, Progress, Silent, Steps, Tools
from train.evaluate.canaries import plant

Review = Callable[[Sequence[Entry], DecisionLog], bool]
"""Shows the entries to the owner and adds what he decides to the log; whether he has come to the end."""


class ReviewUnfinished(DataError):
    """The owner has stopped before the end; what he decided is kept."""


@dataclass(frozen=True)
class _Read:
    conversations: list[Conversation]
    sources: list[SourceFile]


def load_tools(home: Home, rules: CurationRules, threads: int = 1) -> Tools:
    """The models that are here. Raises `ConfigError` where the embedder is not in the catalog."""
    spec = load_catalog().embedders.get(rules.embedder)
    if spec is None:
        raise DataError(f"the embedder {rules.embedder!r} is not in the catalog")
    wanted = {each.step for each in rules.steps}
    model, tokenizer = home.embedder_file(rules.embedder), home.model_file(rules.embedder, spec.tokenizer)
    embedder = pii = None
    if "alike" in wanted and model.is_file() and tokenizer.is_file():
        embedder = Embedder(model, tokenizer, max_tokens=spec.max_tokens, threads=threads)
    files = rules.pii_model.files(home)
    if "pii" in wanted and all(path.is_file() for path in files):
        pii = PiiModel(*files, threads=threads)
    return Tools(embedder, pii)


def curate(
    sources: Sequence[Path],
    target: Path,
    rules: CurationRules,
    *,
    tools: Tools,
    decisions: Path | None = None,
    review: Review | None = None,
    progress: Progress | None = None,
    canaries: int = 0,
    canary_seed: int = 42,
) -> Card:
    """Make the dataset `target` of JSONL files of conversations; its name is the folder's.

    `decisions` is the owner's log, which is also what `review` adds to; decisions that are in it hold without a
    review too. So many `canaries` are planted in what is trained on, after all steps: none is lost or
    changed on the way. Raises `DataError` (what cannot be read; nothing left; a leak; a review that was not
    finished).
    """
    progress = progress or Silent()
    read = _read(sources, progress)
    log = DecisionLog(decisions if decisions is not None else target.with_name(f".{target.name}.decisions.jsonl"))
    standing = Standing(log.standing(), read.conversations)
    steps, entries = _run(rules, tools, progress, standing, read)
    if review is not None:
        if not review(entries, log):
            raise ReviewUnfinished(
                f"the review is not finished; the same command goes on with it ({log.path.name})"
            )
        again = Standing(log.standing(), read.conversations)
        if again.accepted != standing.accepted and any(
            not entry.kept and entry.now.id in again.accepted for entry in entries
        ):
            steps, entries = _run(rules, tools, progress, again, read)
        standing = again
    kept = _kept(entries, standing)
    if not kept:
        raise DataError(f"nothing is left of {len(read.conversations)} conversations: {_why(steps)}")
    held, checks = _split(kept, steps, rules, progress)
    left = _pii_left(kept, rules, tools)

    def card(train: Part, validation: Part, data_hash: str) -> Card:
        return Card(
            name=target.name,
            data_hash=data_hash,
            licence=rules.licence,
            read=len(read.conversations),
            read_messages=sum(len(each.messages) for each in read.conversations),
            train=train,
            validation=validation,
            steps=[_report(each) for each in steps.counts],
            owner=_owner(standing),
            pii=dict(sorted(steps.pii.items())),
            pii_left=dict(sorted(left.items())),
            leakage=Leakage(checks=checks),
            planted=len(secrets),
            sources=read.sources,
            tags=dict(sorted(Counter(tag for each in kept for tag in each.tags).items())),
            rules=rules,
        )

    train, secrets = plant([each for each, out in zip(kept, held, strict=True) if not out], canaries, canary_seed)
    validation = [each for each, out in zip(kept, held, strict=True) if out]
    return write_dataset(target, train, validation, [*steps.decisions, *standing.held], card, secrets)


def _read(sources: Sequence[Path], progress: Progress) -> _Read:
    """All of all files; an id that comes again for something else gets another."""
    conversations: list[Conversation] = []
    files: list[SourceFile] = []
    ids: set[str] = set()
    progress.begin("read", 0, 0)
    for path in sources:
        try:
            mine = list(read_conversations(path))
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path.name}: {error.strerror or error}") from None
        for each in mine:
            named, number = each, 1
            while named.id in ids:
                number += 1
                named = each.model_copy(update={"id": f"{each.id}-{number}"})
            ids.add(named.id)
            conversations.append(named)
            progress.advance(1)
        of = dict(sorted(Counter(each.source for each in mine).items()))
        files.append(SourceFile(file=path.name, sha256=sha256, conversations=len(mine), of=of))
    progress.end()
    if not conversations:
        raise DataError("there is no conversation in " + (", ".join(path.name for path in sources) or "no file"))
    return _Read(conversations, files)


def _run(
    rules: CurationRules, tools: Tools, progress: Progress, standing: Standing, read: _Read
) -> tuple[Steps, list[Entry]]:
    steps = Steps(rules, tools, progress, spared=standing.accepted)
    return steps, steps.run(read.conversations)


def _kept(entries: Sequence[Entry], standing: Standing) -> list[Conversation]:
    kept = []
    for entry in entries:
        verdict = standing.verdict(entry.now.id)
        if entry.kept and (verdict is None or verdict.verdict == "accept"):
            kept.append(standing.applied(entry.now))
    return kept


def _split(
    kept: Sequence[Conversation], steps: Steps, rules: CurationRules, progress: Progress
) -> tuple[list[bool], list[str]]:
    """Which are held back, and what was looked for on both sides."""
    places = {each.id: at for at, each in enumerate(kept)}
    pairs = [Pair(places[a], places[b], near) for a, b, near in steps.pairs if a in places and b in places]
    near = next((each for each in rules.steps if isinstance(each, NearDuplicates)), None)
    alike = next((each for each in rules.steps if isinstance(each, AlikeDuplicates)), None)
    taken = {each.step for each in steps.counts if not each.left_out}
    vectors = None
    checks = ["the same words", "the same question"]
    progress.begin("split", len(kept), sum(len(each.messages) for each in kept))
    if near is not None:
        checks.append(f"pieces in common from {near.near}")
    if alike is not None and "alike" in taken and steps.vectors is not None:
        vectors = steps.vectors.of(kept, Silent())
        checks.append(f"cosine from {alike.near}")
    check = LeakCheck(
        near.near if near else None, near.letters if near else 5, alike.near if alike else None, vectors
    )
    held = split_without_leaks(kept, pairs, rules.split, check)
    progress.advance(len(kept))
    progress.end()
    if rules.split.validation and not any(held):
        progress.note("Nothing could be held back: all that is left hangs together.")
    return held, checks


def _pii_left(kept: Sequence[Conversation], rules: CurationRules, tools: Tools) -> Counter[str]:
    """What rules find in what is written: where the owner has edited it in, or keeps it. (Not by the model again,
    which would take as long as the step itself.)"""
    pii = next((each for each in rules.steps if isinstance(each, Pii)), None)
    if pii is None:
        return Counter()
    finder = Finder(pii.model_copy(update={"keep": ()}), None)
    return Counter(
        found.kind
        for each in kept
        for one in finder.find([*(message.content for message in each.messages), each.rejected or ""])
        for found in one
        if found.kind != "name"
    )


def _report(count: object) -> StepReport:
    return StepReport.model_validate(
        {
            name: dict(sorted(value.items())) if isinstance(value := getattr(count, name), Counter) else value
            for name in ("step", "seen", "dropped", "changed", "reasons", "left_out")
        }
    )


def _owner(standing: Standing) -> OwnerReport:
    verdicts = Counter(each.verdict for each in standing.held)
    return OwnerReport(
        accepted=verdicts["accept"],
        rejected=verdicts["reject"],
        edited=verdicts["edit"],
        tagged=verdicts["tag"],
        stale=standing.stale,
    )


def _why(steps: Steps) -> str:
    return ", ".join(f"{each.step} left out {each.dropped}" for each in steps.counts if each.dropped)
