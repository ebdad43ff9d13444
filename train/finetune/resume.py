"""A job's folder, as far as training goes: what is done, from where to go on, whether to stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from configs.training import read_events
from train.finetune.outcome import Told

STORAGE = Path("storage")
PREPARED = STORAGE / "prepared"
TRAINED = STORAGE / "peft"
"""The adapter as it was trained, whole or not there."""
STOP = STORAGE / "stop"
"""There while the driver was told to end."""
CANCEL = Path("cancel")
RUN = "train"
"""Ray Train's own folder in `storage/`: same name, same checkpoints."""
NEWS = "news.json"
"""In a checkpoint: what was told with it."""
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def wants_stop(folder: Path) -> bool:
    """Whether training is to end at this step."""
    return (folder / CANCEL).exists() or (folder / STOP).exists()


def step_of(checkpoint: Path) -> int:
    """At which step it was written. Raises `OSError`."""
    step: int = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    return step


def keep_news(checkpoint: Path, news: list[Told]) -> None:
    """Put what is told with a checkpoint into it. Raises `OSError`."""
    (checkpoint / NEWS).write_text(json.dumps(news))


def lost_news(checkpoint: Path, folder: Path) -> list[Told]:
    """What was told with a checkpoint and is not among the job's events: whoever writes them was killed when the
    checkpoint was there already. Raises `OSError`."""
    known = {(event.kind, event.data.get("step")) for event in read_events(folder)}
    kept = checkpoint / NEWS
    told: list[Told] = [(kind, data) for kind, data in json.loads(kept.read_text())] if kept.exists() else []
    told.append(("checkpoint", {"step": step_of(checkpoint), "path": checkpoint.name}))
    return [(kind, data) for kind, data in told if (kind, data.get("step")) not in known]


def keep_adapter(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint's adapter, alone, as the job's. Raises `OSError`."""
    target = folder / TRAINED
    staged = target.with_name(f"{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    for name in PEFT_FILES:
        shutil.copy2(checkpoint / name, staged / name)
    shutil.rmtree(target, ignore_errors=True)
    staged.replace(target)
    return target
