"""The stage `prepare`: a dataset's files, tokenised once, as the trainer reads them.

`FOLDER/train` and, where there are conversations for it, `FOLDER/validation` are Arrow datasets; `report.json`
says what became of every conversation. The folder is there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.training import Recipe
from train.conversation import DataError
from train.data_hash import data_hash
from train.format.rows import Row, RowMaker, Tally

REPORT = "report.json"
NEEDED = {
    "sft": "no answer in it can be learned from",
    "dpo": "no conversation has `rejected`: DPO learns from pairs of answers",
    "kto": "no conversation has `rating` or `rejected`: KTO learns from thumbs",
}


def prepare(dataset: Path, weights: Path, recipe: Recipe, target: Path) -> dict[str, Any]:
    """Fill `target`, which may be there from an earlier time; returns the report.

    Raises `DataError` where the data cannot be used, `OSError` where it cannot be read.
    """
    if (target / REPORT).is_file():
        return read_report(target)
    from transformers import AutoTokenizer

    if not (dataset / "train.jsonl").is_file():
        raise DataError(f"{dataset}: has no train.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(weights)
    staged = target.with_name(f"{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, mode=0o700)
    report: dict[str, Any] = {"data_hash": data_hash(dataset), "method": recipe.method, "limit": recipe.max_length}
    for split in ("train", "validation"):
        tally = _prepare_split(dataset / f"{split}.jsonl", tokenizer, recipe, staged / split)
        if split == "train" and not tally.rows:
            raise DataError(f"train.jsonl: {NEEDED[recipe.method]}{_why(tally)}")
        report[split] = asdict(tally)
    (staged / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    staged.replace(target)
    return report


def read_report(prepared: Path) -> dict[str, Any]:
    """What `prepare` found. Raises `OSError`."""
    report: dict[str, Any] = json.loads((prepared / REPORT).read_text())
    return report


def told(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(level, message) for the owner: what is learned from, what was cut, what was left out and why."""
    for split in ("train", "validation"):
        tally = report[split]
        if not tally["conversations"]:
            continue
        yield (
            "info",
            f"{split}: {tally['conversations']:,} conversations, {tally['rows']:,} rows, "
            f"{tally['tokens']:,} tokens, {tally['learned_tokens']:,} of them learned",
        )
        if tally["cut"]:
            yield (
                "warning",
                f"{split}: {tally['cut']:,} longer than {report['limit']:,} tokens were cut; "
                f"{tally['cut_tokens']:,} tokens are gone (`max_length`)",
            )
        for reason, count in tally["left_out"].items():
            yield "warning", f"{split}: {count:,} conversations left out: {reason}"


def _prepare_split(path: Path, tokenizer: Any, recipe: Recipe, target: Path) -> Tally:
    maker = RowMaker(recipe.method, tokenizer, recipe.max_length)
    rows = list(maker.rows(path)) if path.is_file() else []
    if rows:
        _dataset(rows, recipe, pack=recipe.packing and target.name == "train").save_to_disk(target)
    return maker.tally


def _dataset(rows: list[Row], recipe: Recipe, pack: bool) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()

    dataset = Dataset.from_list(rows)
    if pack and recipe.method == "sft":
        from trl import pack_dataset

        # (The best fit decreases padding to nearly nothing; the collator keeps those in a row from each other.)
        dataset = pack_dataset(dataset, recipe.max_length, "bfd")
    return dataset


def _why(tally: Tally) -> str:
    return "".join(f"; {count:,} left out: {reason}" for reason, count in tally.left_out.items())
