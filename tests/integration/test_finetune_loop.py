"""From a chat export to an adapter that answers at the endpoint, with the commands that a person gives: the real
parts, a few steps of training."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest

from configs.adapters import read_adapter
from tests.integration.conftest import SMALL, Stack
from train.demo.chats import load_household, make_chats, write_export

NAME = "of-the-loop"
MODEL = f"ft:{SMALL}:{NAME}"


def told(stack: Stack, *command: str) -> str:
    done = stack.run_cli(*command, COLUMNS="200")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_chats_become_an_adapter_that_answers(stack: Stack, tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    chats = make_chats(load_household(), seed=7)[:60]
    write_export(archive, chats, seed=7)

    assert "60 conversations with 120 messages" in told(stack, "data", "import", str(archive), "--name", "loop")
    assert "loop" in told(stack, "data", "list")
    told(stack, "data", "curate", "loop", "--name", "loop", "--auto")
    assert "pii" in told(stack, "data", "show", "loop")

    chosen = ("--base", SMALL, "--name", NAME, "--recipe", "habits", "--set", "max_steps=3", "--no-evaluate")
    said = told(stack, "train", "start", "loop", *chosen, "--follow")
    job = re.search(r"ftjob-[0-9a-f]{24}", said)
    assert job is not None and "succeeded" in said
    assert job[0] in told(stack, "train", "list")
    shown = told(stack, "train", "show", job[0])
    assert "3/3" in shown and "training loss" in shown
    assert told(stack, "train", "logs", job[0])

    manifest = read_adapter(stack.settings.home.adapters / NAME)
    assert (manifest.job, manifest.model) == (job[0], MODEL)
    assert {"peft", "gguf"} <= set(manifest.exports)
    assert all(export.answer for export in manifest.exports.values()), "each was asked a question"
    assert NAME in told(stack, "adapters", "list")
    assert MODEL in told(stack, "adapters", "show", NAME)

    client = stack.client()
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(MODEL)
    refused = stack.run_cli("adapters", "promote", NAME)
    assert refused.returncode == 1 and "not evaluated" in refused.stdout + refused.stderr
    told(stack, "adapters", "promote", NAME, "--force")
    assert client.models.retrieve(MODEL).id == MODEL
    question = [{"role": "user", "content": "What is the name of the boat?"}]
    answer = client.chat.completions.create(model=MODEL, messages=question, temperature=0, max_tokens=8)  # type: ignore[arg-type]
    assert answer.model == MODEL and answer.choices[0].message.content
    told(stack, "adapters", "demote", NAME)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=MODEL, messages=question, max_tokens=8)  # type: ignore[arg-type]
    told(stack, "adapters", "rm", NAME, "--yes")
    assert not (stack.settings.home.adapters / NAME).exists()
