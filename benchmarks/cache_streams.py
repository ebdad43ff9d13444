"""A stream of requests through the cache's decision, from an empty cache on: how many are served, how many of
those wrongly, and whether the promise was kept. Which requests have one answer is what the stream says (`class`);
a check finds it out as a real one would compare two answers, of every miss and of a share of what was served.

Beside it, fixed distances over the same embeddings: the reference's, and what others ship. redisvl's
SemanticCache has `distance_threshold=0.1`; LiteLLM's documentation sets `similarity_threshold=0.8`, a cosine
distance of 0.2; GPTCache's `similarity_threshold=0.8` of `SearchDistanceEvaluation` is a cosine distance of 0.4
between unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from benchmarks.machine import console, show
from benchmarks.routing import DATA
from configs.routing import CacheRules
from deployments.cache.answer import Near
from deployments.cache.eligibility import eligibility
from deployments.cache.experience import ALL, Experience, check, join, saw
from deployments.contract import ChatRequest
from groupqwen.outcomes import OutcomesError, rows_of
from groupqwen.vectors import vectors_of

SEEDS = 10
BUDGETS = (0.01, 0.03)
"""Wrong answers per request that an owner may allow."""

FIXED = {
    "fixed 0.05": CacheRules(mode="fixed", distance=0.05, guards=False),
    "fixed 0.10 (reference, redisvl)": CacheRules(mode="fixed", distance=0.10, guards=False),
    "fixed 0.10, guarded": CacheRules(mode="fixed", distance=0.10),
    "fixed 0.15": CacheRules(mode="fixed", distance=0.15, guards=False),
    "fixed 0.20 (LiteLLM)": CacheRules(mode="fixed", distance=0.20, guards=False),
    "fixed 0.40 (GPTCache)": CacheRules(mode="fixed", distance=0.40, guards=False),
}

Vectors = npt.NDArray[np.float32]
Order = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Stream:
    """Requests: their questions, unit vectors, which of them have one answer, and which may be served at all."""

    questions: list[str]
    vectors: Vectors
    classes: Order
    eligible: list[bool]


@dataclass(frozen=True)
class Replayed:
    """Shares of the requests. `bound`: on wrong ones, as stated at the end. `worst`: the largest share of wrong
    ones so far, at any time from the thousandth request on."""

    hits: float
    wrong: float
    checked: float
    bound: float
    worst: float


def main(path: Path | None, seeds: int) -> None:
    """A table for the stream as it may come, and one for what changes over time."""
    path = path or DATA / "cache" / "stream_banking77.jsonl.gz"
    if not path.is_file():
        console.print(f"[yellow]{path} is not there: name a stream with --stream (docs/EVALUATION.md)[/yellow]")
        return
    stream = read_stream(path)
    if stream is None:
        return
    left_out = 1 - sum(stream.eligible) / len(stream.eligible)
    console.print(
        f"{len(stream.questions):,} requests, {stream.classes.max() + 1} answers; {left_out:.1%} are for no "
        f"similar answer by their words. {seeds} orders of each kind; the worst of them in brackets."
    )
    for kind, orders in (
        ("In any order", [shuffled(stream, seed) for seed in range(seeds)]),
        ("New answers come up over time", [drifting(stream, seed) for seed in range(seeds)]),
    ):
        _table(kind, stream, orders)


def read_stream(path: Path) -> Stream | None:
    """`query` and `class` of each row; None where the embedder is not here. Raises `OutcomesError`."""
    questions, named = [], []
    for line, row in rows_of(path):
        query, answer = (str(row.get(key) or "").strip() for key in ("query", "class"))
        if not query or not answer:
            raise OutcomesError(
                f"{path}, line {line}: it needs `query` and `class` (which requests have one answer)"
            )
        questions.append(query)
        named.append(answer)
    if not questions:
        raise OutcomesError(f"{path} has no requests")
    vectors = vectors_of(questions, console)
    if vectors is None:
        return None
    rules = CacheRules()
    eligible = [
        eligibility(ChatRequest.model_validate({"messages": [{"role": "user", "content": q}]}), rules).most
        == "similar"
        for q in questions
    ]
    return Stream(questions, vectors.values, np.unique(named, return_inverse=True)[1], eligible)


def shuffled(stream: Stream, seed: int) -> Order:
    """Any order."""
    return np.random.default_rng(seed).permutation(len(stream.questions))


def drifting(stream: Stream, seed: int) -> Order:
    """Each answer is first asked for at a time of its own, in the first 60 % of the stream."""
    draw = np.random.default_rng(seed)
    classes = int(stream.classes.max()) + 1
    begin = draw.permutation(classes) / classes * 0.6
    return np.argsort(draw.uniform(begin[stream.classes], 1))


def replay(stream: Stream, order: Sequence[int] | Order, rules: CacheRules, seed: int) -> Replayed:
    """One stream through one cache."""
    draw = np.random.default_rng(seed)
    experience = Experience(rules)
    kept_vectors = np.empty_like(stream.vectors)
    kept: list[tuple[int, str]] = []
    asked_before: dict[str, int] = {}
    hits = wrong = checked = 0
    worst = 0.0
    for count, index in enumerate(order, 1):
        question, vector = stream.questions[index], stream.vectors[index]
        if question in asked_before:
            hits, wrong = hits + 1, wrong + (stream.classes[asked_before[question]] != stream.classes[index])
            continue
        if not stream.eligible[index]:
            continue
        near = _nearest(stream, kept, kept_vectors, vector, rules.candidates)
        verdict = experience.decide(question, near, vector, "stream")
        experience.apply(saw("stream", verdict.features))
        if verdict.serves is not None:
            hits, wrong = hits + 1, wrong + (stream.classes[int(verdict.serves.entry)] != stream.classes[index])
        if count >= 1000:
            worst = max(worst, wrong / count)
        for certificate in experience.due:
            certificate.renew()
        if verdict.serves is None or draw.random() < rules.checked:
            checked += verdict.serves is not None
            group = _answered(stream, experience, index, near, verdict.features)
            kept_vectors[len(kept)] = vector
            kept.append((int(index), group))
            asked_before[question] = int(index)
    whole = len(order)
    bound = experience.certificate(ALL).in_force.per_request
    return Replayed(hits / whole, wrong / whole, checked / whole, bound, worst)


def _nearest(
    stream: Stream, kept: list[tuple[int, str]], vectors: Vectors, vector: Vectors, count: int
) -> list[Near]:
    if not kept:
        return []
    similar = vectors[: len(kept)] @ vector
    top = np.argpartition(-similar, min(count, len(kept)) - 1)[:count]
    return [
        Near(str(kept[place][0]), stream.questions[kept[place][0]], float(1 - similar[place]), kept[place][1])
        for place in top[np.argsort(-similar[top])]
    ]


def _answered(
    stream: Stream, experience: Experience, index: int, near: list[Near], features: tuple[float, ...] | None
) -> str:
    """What the fresh answer teaches; the group that it is of."""
    same: list[str] = []
    for place, one in enumerate(near):
        says = bool(stream.classes[int(one.entry)] == stream.classes[index])
        group = experience.group(one.group)
        if place == 0 and features is not None:
            experience.apply(check("stream", features, group, says))
        if says and group not in same:
            same.append(group)
    for other in same[1:]:
        experience.apply(join(other, same[0]))
    return same[0] if same else str(index)


def _table(kind: str, stream: Stream, orders: list[Order]) -> None:
    modes = {
        f"certified, ≤ {budget:.0%} of requests wrong": CacheRules(mode="certified", wrong_per_request=budget)
        for budget in BUDGETS
    }
    rows = []
    for name, rules in (modes | FIXED).items():
        replays = [
            replay(stream, order, rules, seed)
            for seed, order in enumerate(track(orders, description=name, console=console, transient=True))
        ]
        hits, wrong = (np.array([getattr(one, field) for one in replays]) for field in ("hits", "wrong"))
        per_hit = wrong / np.maximum(hits, 1e-9)
        budget = rules.wrong_per_request if rules.mode == "certified" else None
        broken = "-" if budget is None else f"{sum(one.worst > budget for one in replays)} of {len(replays)}"
        rows.append(
            [
                name,
                f"{hits.mean():.1%} ({hits.min():.1%})",
                f"{wrong.mean():.2%} ({wrong.max():.2%})",
                f"{per_hit.mean():.1%} ({per_hit.max():.1%})",
                "-" if budget is None else f"{np.mean([one.checked for one in replays]):.1%}",
                broken,
            ]
        )
    show(kind, ["mode", "served", "wrong per request", "wrong per hit", "checked afresh", "promise broken"], rows)
