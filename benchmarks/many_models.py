"""More than two tiers: 29 models on MMLU-Pro, and what 95 % of the best one's quality costs. Questions are held
out (5-fold); what a model's answer costs is reckoned by its length and the model's size, which is a guess at a
price."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import console, show
from deployments.classifier.training import Outcomes, by_text, count_terms, held_out_scores

FOLDS, SEED = 5, 0

Values = npt.NDArray[np.float64]


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a gzipped CSV file."""
    csv.field_size_limit(2**22)
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> Values:
    """One of its columns, as numbers."""
    return np.array([float(row[name]) for row in rows])


MATRIX_CHARS_PER_TOKEN = 4


def many_models(path: Path) -> None:
    """One of 29 models for each question (MMLU-Pro): what 95 % of the best one's quality costs."""
    rows = csv_rows(path)
    questions_file = path.with_name("mmlu_pro_questions.jsonl.gz")
    if not questions_file.is_file():
        console.print(f"[yellow]{questions_file} is not there: the table of 29 models is left out[/yellow]")
        return
    with gzip.open(questions_file, "rt") as file:
        texts = {str(row["question_id"]): row["question"] for row in map(json.loads, file)}
    names = [column.removesuffix("|ok") for column in rows[0] if column.endswith("|ok")]
    rows = [row for row in rows if row["question_id"] in texts and all(row[f"{n}|ok"] != "" for n in names)]
    right = {name: column(rows, f"{name}|ok") for name in names}
    # A model's cost is its answer's length at a price that grows with its size.
    cost = {name: SIZES[name] * column(rows, f"{name}|chars") / MATRIX_CHARS_PER_TOKEN for name in names}
    outcomes = Outcomes([texts[row["question_id"]] for row in rows], right)
    with console.status("29 models: learning …"):
        scores = held_out_scores(by_text(count_terms(outcomes.questions)), outcomes, FOLDS, SEED)
    _many_table(names, right, cost, 1 / (1 + np.exp(-scores)))


SIZES = {
    "DeepSeek-Coder-V2": 21, "Llama-2-13b-hf": 13, "Llama-2-70b-hf": 70, "Llama-2-7b-hf": 7,
    "Meta-Llama-3-70B": 70, "Meta-Llama-3-8B": 8, "Meta-Llama-3_1-70B": 70, "Meta-Llama-3_1-70B-Instruct": 70,
    "Meta-Llama-3_1-8B": 8, "Meta-Llama-3_1-8B-Instruct": 8, "Mistral-7B-Instruct-v0.1": 7,
    "Mistral-7B-Instruct-v0.2": 7, "Mistral-7B-v0.1": 7, "Mistral-7B-v0.2-hf": 7,
    "Mixtral-8x7B-Instruct-v0.1": 13, "Mixtral-8x7B-v0.1": 13, "Phi-3-mini-4k-instruct": 4,
    "Qwen1.5-110B": 110, "Qwen1.5-72B-Chat": 72, "Qwen1.5-7B-Chat": 7, "Yi-34B": 34, "Yi-6B": 6,
    "Yi-6b-Chat": 6, "c4ai-command-r-v01": 35, "gemini-1.5-flash-002": 30, "gemini-1.5-pro-002": 200,
    "gemma-7b": 8.5, "jamba-1.5-large": 94, "mathstral-7B": 7,
}  # fmt: skip
"""Active parameters, billions, by which an answer's cost is reckoned; of the two Gemini models a guess."""


def _many_table(names: list[str], right: dict[str, Values], cost: dict[str, Values], p: Values) -> None:
    """For every exchange rate the best offer is taken; of the rates, the cheapest that reaches 95 %."""
    ok, price = np.array([right[name] for name in names]), np.array([cost[name] for name in names])
    count = ok.shape[1]
    best = int(ok.mean(axis=1).argmax())
    most, full = float(ok[best].mean()), float(price[best].mean())
    mean_price = price.mean(axis=1)
    every = np.arange(count)

    def reach(score: Values) -> tuple[float, float, float]:
        """(quality, cost, rate): the cheapest that reaches the goal, over exchange rates."""
        found = []
        for rate in np.concatenate([[0.0], np.geomspace(1e-3, 10, 200)]):
            chosen = (score - rate * (mean_price / full)[:, None]).argmax(axis=0)
            found.append((float(ok[chosen, every].mean()), float(price[chosen, every].mean()), float(rate)))
        enough = [one for one in found if one[0] >= 0.95 * most]
        return min(enough, key=lambda one: one[1]) if enough else max(found)

    always = [(float(ok[k].mean()), float(price[k].mean())) for k in range(len(names))]
    single = min((one for one in always if one[0] >= 0.95 * most), key=lambda one: one[1])
    smaller = min(range(len(names)), key=lambda k: abs(always[k][1] - full / 4))
    mixed = mixture(always, 0.95 * most)
    cheapest_right = np.where(ok > 0.5, price, np.inf)
    solvable = np.isfinite(cheapest_right).any(axis=0)
    oracle_cost = np.where(solvable, np.where(solvable, cheapest_right.min(axis=0), 0), price.min(axis=0))
    learned = reach(p.T)
    flat = reach(np.repeat(ok.mean(axis=1)[:, None], count, axis=1))
    table: list[tuple[str, float, float]] = [
        (f"always the best ({names[best]})", most, full),
        ("the cheapest single model with 95 % of it", *single),
        ("the best mix of two at random", 0.95 * most, mixed),
        ("by each model's mean alone (no question is read)", flat[0], flat[1]),
        ("learned", learned[0], learned[1]),
        (f"always {names[smaller]}", *always[smaller]),
        ("oracle", float(solvable.mean()), float(oracle_cost.mean())),
    ]
    show(
        f"{len(names)} models, {count:,} questions (MMLU-Pro): what 95 % of the best one's quality costs",
        ["router", "right", "cost ÷ always the best"],
        [[name, f"{quality:.3f}", f"{spent / full:.3f}"] for name, quality, spent in table],
    )


def mixture(always: list[tuple[float, float]], goal: float) -> float:
    """The least cost at which two models, drawn at random for each question, reach the goal."""
    found = []
    for quality_a, cost_a in always:
        for quality_b, cost_b in always:
            if quality_a >= goal:
                share = 0.0 if quality_b >= goal else (goal - quality_b) / (quality_a - quality_b)
                found.append(share * cost_a + (1 - share) * cost_b)
    return min(found)
