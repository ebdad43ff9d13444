"""How fast `groupqwen data import` reads a ChatGPT archive, and in how much memory, at three sizes.

Archives are made here, from a seed: conversations of about ten messages, each tenth answer regenerated, with the
empty messages of the system and the metadata that exports have. Each is imported in a process of its own, whose
peak of resident memory is the operating system's figure.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.machine import show

SIZES = (50_000, 250_000, 1_000_000)
"""Messages of an archive that somebody has read or written."""
MOST_MIB = 500.0
LINEAR = 1.3
"""The processor's time for each message of the largest archive, at most, against the smallest's."""
WORDS = [
    *(
        "the",
        "sea",
        "is",
        "salty",
        "because",
        "rivers",
        "carry",
        "minerals",
        "and",
        "water",
        "leaves",
        "as",
        "vapour",
    ),
    *(
        "however",
        "a",
        "function",
        "returns",
        "its",
        "value",
        "für",
        "größere",
        "Boote",
        "👍",
        "of",
        "in",
        "which",
        "we",
    ),
]


@dataclass(frozen=True)
class Measured:
    """`wall` and `cpu`: seconds. `peak`: MiB."""

    conversations: int
    messages: int
    wall: float
    cpu: float
    peak: float


def conversations(messages: int, seed: int = 42) -> Iterator[dict[str, Any]]:
    """An export with so many messages, one conversation after the other."""
    draw, made, number = Random(seed), 0, 0
    while made < messages:
        turns = min(messages - made, draw.choice((2, 4, 6, 10, 16, 22)))
        made += turns
        number += 1
        yield _conversation(draw, number, turns)


def _conversation(draw: Random, number: int, turns: int) -> dict[str, Any]:
    name, at = f"{draw.getrandbits(128):032x}", 1.6e9 + number * 60
    nodes: dict[str, dict[str, Any]] = {f"{name}-root": {"id": f"{name}-root", "message": None, "parent": None}}
    above = f"{name}-root"
    roles = ["system", *("user" if turn % 2 == 0 else "assistant" for turn in range(turns))]
    for place, role in enumerate(roles):
        for branch in range(2 if role == "assistant" and draw.random() < 0.1 else 1):
            node = f"{name}-{place}-{branch}"
            text = "" if role == "system" else " ".join(draw.choices(WORDS, k=draw.randint(5, 90)))
            nodes[node] = {"id": node, "parent": above, "message": _message(node, role, text, at + place)}
        above = node
    for node, one in nodes.items():
        one["children"] = []
        if one["parent"]:
            nodes[one["parent"]]["children"].append(node)
    return {
        "title": f"Conversation {number}",
        "create_time": at,
        "update_time": at + turns,
        "mapping": nodes,
        "moderation_results": [],
        "current_node": above,
        "conversation_id": name,
        "is_archived": False,
        "default_model_slug": "gpt-4o",
        "id": name,
    }


def _message(node: str, role: str, text: str, at: float) -> dict[str, Any]:
    return {
        "id": node,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": at,
        "update_time": None,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully",
        "end_turn": role == "assistant" or None,
        "weight": 0.0 if role == "system" else 1.0,
        "metadata": {"is_visually_hidden_from_conversation": True}
        if role == "system"
        else {
            "model_slug": "gpt-4o",
            "request_id": node,
            "message_type": None,
            "finish_details": {"type": "stop"},
        },
        "recipient": "all",
        "channel": None,
    }


def write_archive(path: Path, messages: int) -> int:
    """Make an archive; its bytes, unpacked."""
    written = 0
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("conversations.json", "w", force_zip64=True) as file,
    ):
        for number, one in enumerate(conversations(messages)):
            written += file.write((b", " if number else b"[") + json.dumps(one, ensure_ascii=False).encode())
        written += file.write(b"]")
    return written


def measure(archive: Path, folder: Path) -> Measured:
    """Import it in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.chat_import", str(archive), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return Measured(**json.loads(done.stdout))


def _import(archive: Path, folder: Path) -> Measured:
    from train.export.importing import Import, write_import

    began, spent = time.perf_counter(), time.process_time()
    importing = Import()
    write_import(folder, "measured", importing, importing.files([archive]))
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    # (KiB, but on a Mac bytes.)
    return Measured(importing.report.conversations, importing.report.messages, wall, cpu, peak_mib())


def peak_mib() -> float:
    """The most that this process has had resident. (`getrusage` counts on Linux also what the process had that
    started it.)"""
    try:
        told = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return int(told.partition("VmHWM:")[2].split()[0]) / 1024


def main(sizes: tuple[int, ...] = SIZES) -> bool:
    """Measure and show; whether memory and time are as they must be."""
    rows, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for messages in sizes:
            archive = Path(folder) / f"{messages}.zip"
            unpacked = write_archive(archive, messages)
            one = measure(archive, Path(folder) / "imports")
            found.append(one)
            rows.append(
                [
                    f"{messages:,}",
                    f"{archive.stat().st_size / 1e6:,.0f} / {unpacked / 1e6:,.0f}",
                    f"{one.conversations:,}",
                    f"{one.messages:,}",
                    f"{one.wall:.1f}",
                    f"{one.cpu:.1f}",
                    f"{one.messages / one.wall:,.0f}",
                    f"{one.cpu / one.messages * 1e6:.1f}",
                    f"{one.peak:.0f}",
                ]
            )
            archive.unlink()
    columns = ["messages", "MB (zip / JSON)", "conversations", "taken", "seconds", "CPU s", "messages/s"]
    show("Import of ChatGPT archives", [*columns, "CPU µs/message", "peak MiB"], rows)
    each = [one.cpu / one.messages for one in found]
    small, linear = max(one.peak for one in found) < MOST_MIB, each[-1] < LINEAR * each[0]
    print(f"within {MOST_MIB:.0f} MiB: {'yes' if small else 'NO'}; linear: {'yes' if linear else 'NO'}")
    return small and linear


if __name__ == "__main__":
    print(json.dumps(vars(_import(Path(sys.argv[1]), Path(sys.argv[2])))))
