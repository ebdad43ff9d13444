"""Who should answer, learned from outcomes, beside the rules that people use: on public outcome logs.

Every figure is from questions that were held out (5-fold). Controls stand in each table: chance, length, always
one model, and an oracle that knows each outcome. The logs are not part of the project; see docs/EVALUATION.md.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import KFold

from benchmarks import servers
from benchmarks.load import percentile
from benchmarks.machine import console, show
from benchmarks.many_models import column, csv_rows, many_models
from configs.catalog import load_catalog
from configs.profile import Profile, load_profile
from configs.routing import load_routing
from deployments.classifier.families import held_out
from deployments.classifier.layers import Layers
from deployments.classifier.learned import Learned
from deployments.classifier.measures import apgr
from deployments.classifier.rules import classify
from deployments.classifier.training import (
    Outcomes,
    averaged,
    by_text,
    by_vector,
    count_terms,
    held_out_scores,
    learn,
)
from deployments.contract import ChatRequest, RequestContext
from deployments.router.rules import Rules
from groupqwen.outcomes import read_families, read_outcomes
from groupqwen.vectors import vectors_of

DATA = Path(os.environ.get("GROUPQWEN_EVALUATION_DATA") or Path(__file__).parents[2] / "shared" / "data")
FOLDS, SEED = 5, 0
PAIR = ("weak", "strong")

Values = npt.NDArray[np.float64]

LITELLM = """
import json, sys
from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter
router = ComplexityRouter(model_name="r", litellm_router_instance=None, complexity_router_config={})
print(json.dumps([router.classify(json.loads(line))[1] for line in sys.stdin]))
"""
"""Run by the Python of the environment that LiteLLM is installed in: the score of its complexity router."""


def main() -> None:
    """Print every table whose data is there."""
    for name, table in TABLES.items():
        path = DATA / "routing" / name
        if path.is_file():
            table(path)
        else:
            console.print(f"[yellow]{path} is not there: its table is left out (docs/EVALUATION.md)[/yellow]")


def routellm(path: Path) -> None:
    """Mixtral-8x7B and GPT-4 on MMLU, as RouteLLM published their outcomes."""
    rows = [row for row in csv_rows(path) if row["subject"] != "gsm8k"]
    outcomes = Outcomes(
        [row["prompt"] for row in rows],
        {name: np.array([float(row[f"{name}_ok"]) for row in rows]) for name in PAIR},
        [row["subject"] for row in rows],
    )
    _pair_table("MMLU, Mixtral-8x7B → GPT-4 (RouteLLM's outcomes)", outcomes, sizes=(8000, 1000, 300))
    _decision_time(outcomes)


def thinking(path: Path) -> None:
    """Answering at once or after thinking, on BIG-Bench-Hard."""
    rows = csv_rows(path)
    outcomes = Outcomes(
        [row["input"] for row in rows],
        {"weak": column(rows, "direct_ok"), "strong": column(rows, "cot_ok")},
        [row["task"] for row in rows],
    )
    _pair_table("BIG-Bench-Hard, at once → after thinking", outcomes, sizes=(len(rows),))


def _pair_table(title: str, outcomes: Outcomes, sizes: tuple[int, ...]) -> None:
    weak, strong = outcomes.right["weak"], outcomes.right["strong"]
    counted = count_terms(outcomes.questions)
    draw = np.random.default_rng(SEED)
    scores: dict[str, Values] = {
        "chance": draw.random(len(weak)),
        "length": np.array([float(len(question)) for question in outcomes.questions]),
        "the reference rules": _reference(outcomes),
    }
    theirs = _litellm(outcomes)
    if theirs is not None:
        scores["LiteLLM's complexity router"] = theirs
    vectors = vectors_of(outcomes.questions, console)

    def learned(name: str, *, by_group: bool = False, most: int | None = None) -> None:
        text = held_out_scores(by_text(counted), outcomes, FOLDS, SEED, by_group, most)
        scores[name] = _gain(text)
        if vectors is not None:
            vector = held_out_scores(by_vector(vectors.values), outcomes, FOLDS, SEED, by_group, most)
            scores[f"{name}, and by embedding"] = _gain(averaged(text, vector))

    with console.status(f"{title}: learning …"):
        for size in sizes:
            most = min(size, len(weak) * (FOLDS - 1) // FOLDS)
            learned(f"learned from {most:,}", most=most)
        if outcomes.groups is not None and len(set(outcomes.groups)) >= FOLDS:
            learned("learned, on kinds that it has not seen", by_group=True)
    scores["oracle"] = strong - weak
    table = [
        [name, f"{_by_fold(score, weak, strong):.3f}", _at_95(score, weak, strong)]
        for name, score in scores.items()
    ]
    show(
        f"{title}: {len(weak):,} questions, always weak {weak.mean():.3f}, always strong {strong.mean():.3f}",
        ["router", "APGR", "strong calls for 95 % of the strong one's quality"],
        table,
    )


def _decision_time(outcomes: Outcomes) -> None:
    """Of questions that were not learned from, one at a time, each once."""
    rows = np.random.default_rng(SEED).permutation(len(outcomes.questions))
    with console.status("Decision time: learning …"):
        learned = learn(outcomes.some(rows[:4000]))
    questions = [outcomes.questions[row] for row in rows[4000:6000]]
    rules = load_routing()

    def milliseconds(decide: Callable[[str], object]) -> list[float]:
        times = []
        for question in questions:
            # The processor's time: on a busy machine the clock would count what others do.
            started = time.thread_time()
            decide(question)
            times.append((time.thread_time() - started) * 1e3)
        return times

    profile, catalog = load_profile("cpu"), load_catalog()
    layers, deciding = Layers(rules, _answered_by(learned, profile)), Rules(profile, catalog, rules)
    context = RequestContext("benchmark", "nobody")

    def decide(question: str) -> None:
        request = ChatRequest(messages=[{"role": "user", "content": question}])
        deciding.decide(request, context, layers.read(request))

    timed = {
        "the reference rules": milliseconds(
            lambda question: classify([{"role": "user", "content": question}], rules)
        ),
        "learned": milliseconds(learned.predict),
        "all layers, and the decision": milliseconds(decide),
    }
    show(
        f"Decision time (of the processor, one core): {len(questions):,} questions",
        ["router", "p50, ms", "p99, ms"],
        [[name, f"{percentile(ms, 0.5):.2f}", f"{percentile(ms, 0.99):.2f}"] for name, ms in timed.items()],
    )


def _answered_by(learned: Learned, profile: Profile) -> Learned:
    """The same, of two of the profile's variants."""
    return replace(learned, names=tuple(profile.variants)[-len(learned.names) :])


def _gain(scores: Values) -> Values:
    """How much likelier the strong one is right than the weak one."""
    probability = 1 / (1 + np.exp(-scores))
    return np.asarray(probability[:, 1] - probability[:, 0])


def _by_fold(score: Values, weak: Values, strong: Values) -> float:
    """The mean over random fifths, the same that learning held out (but for kinds that were not seen)."""
    parts = [held for _, held in KFold(FOLDS, shuffle=True, random_state=SEED).split(score)]
    return float(np.mean([apgr(score[held], weak[held], strong[held]) for held in parts]))


def _at_95(score: Values, weak: Values, strong: Values) -> str:
    order = np.argsort(-score, kind="stable")
    quality = (weak.sum() + np.concatenate([[0.0], np.cumsum((strong - weak)[order])])) / len(weak)
    enough = np.flatnonzero(quality >= 0.95 * strong.mean())
    return f"{100 * enough[0] / len(weak):.0f} %" if len(enough) else "never"


def _reference(outcomes: Outcomes) -> Values:
    rules = load_routing()
    return np.array(
        [classify([{"role": "user", "content": question}], rules).complexity for question in outcomes.questions]
    )


def _litellm(outcomes: Outcomes) -> Values | None:
    lines = "\n".join(json.dumps(question) for question in outcomes.questions)
    command = [str(servers.peers_python()), "-c", LITELLM]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        console.print(f"[yellow]LiteLLM's router did not run: {done.stderr.strip().splitlines()[-1:]}[/yellow]")
        return None
    return np.array(json.loads(done.stdout.strip().splitlines()[-1]), np.float64)


def families(path: Path) -> None:
    """The domain of a question, of 14, from its text alone (MMLU-Pro)."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    _family_table([row["question"] for row in rows], np.array([row["category"] for row in rows]))


def _family_table(questions: list[str], labels: npt.NDArray[np.str_]) -> None:
    with console.status("Task family: learning …"):
        right, _ = held_out(count_terms(questions), labels, FOLDS, SEED)
    most = max(np.mean(labels == label) for label in set(labels))
    show(
        f"Task family: {len(questions):,} questions, {len(set(labels))} domains",
        ["classifier", "accuracy", "worst fold"],
        [
            ["always the commonest", f"{most:.3f}", ""],
            ["learned", f"{np.concatenate(right).mean():.3f}", f"{min(part.mean() for part in right):.3f}"],
        ],
    )


def own_outcomes(path: Path) -> None:
    """A table for each pair of neighbouring models, from worse to better."""
    found = read_outcomes(path)
    ordered = sorted(found.right, key=lambda name: float(found.right[name].mean()))
    for weak, strong in pairwise(ordered):
        pair = Outcomes(found.questions, {"weak": found.right[weak], "strong": found.right[strong]}, found.groups)
        if pair.right["strong"].mean() > pair.right["weak"].mean():
            _pair_table(f"{weak} → {strong}", pair, sizes=(len(pair.questions),))


def own_families(path: Path) -> None:
    """Questions and their labels from a file."""
    questions, labels = read_families(path)
    _family_table(questions, np.array(labels))


TABLES: dict[str, Callable[[Path], None]] = {
    "routellm_mmlu_gsm8k_outcomes.csv.gz": routellm,
    "bbh_direct_vs_cot.csv.gz": thinking,
    "mmlu_pro_questions.jsonl.gz": families,
    "mmlu_pro_matrix.csv.gz": many_models,
}
