"""What `groupqwen train here` makes of its words: a recipe, a dataset, a job's folder; and how it shows a job."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from configs.home import Home
from configs.training import CLEARED, FAILED, EventLog, load_recipes, read_events, write_spec
from groupqwen.cli import app
from groupqwen.training.display import Display
from groupqwen.training.running import changed, dataset_folder, job_folder, parent_version
from tests.deployments.adapters.made import published
from tests.deployments.finetuning.test_states import job
from train.run import run

ASKED = ["train", "here", "missing", "--base", "smollm2-135m", "--name", "x"]


def test_a_recipe_is_changed_by_key_and_value() -> None:
    recipe = changed("habits", ["epochs=0.5", "targets=[q_proj]", "patience=null", "packing=true"])
    assert (recipe.epochs, recipe.targets, recipe.patience, recipe.packing) == (0.5, ("q_proj",), None, True)
    assert recipe.rank == load_recipes()["habits"].rank


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("best", "epochs=1", "there are reference, habits"),
        ("habits", "speed=1", "say one of note, method"),
        ("habits", "epochs", "say one of"),
        ("habits", "epochs=many", "epochs: Input should be a valid number"),
        ("habits", "rank=0", "rank: Input should be greater"),
    ],
)
def test_a_wrong_change_is_told(name: str, change: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        changed(name, [change])


def test_a_dataset_is_a_file_a_folder_or_a_name(tmp_path: Path) -> None:
    where = Home(tmp_path)
    named = where.training / "datasets" / "mine"
    named.mkdir(parents=True)
    (named / "train.jsonl").touch()
    assert dataset_folder(where, "mine") == named
    assert dataset_folder(where, str(named)) == named
    assert dataset_folder(where, str(named / "train.jsonl")) is None
    with pytest.raises(typer.BadParameter, match="no dataset"):
        dataset_folder(where, "theirs")
    with pytest.raises(typer.BadParameter, match="No such file"):
        job_folder(where, "ftjob-0")


def test_a_job_goes_on_from_the_version_that_was_there(tmp_path: Path) -> None:
    where = Home(tmp_path)
    older = published(where.adapters, "habit", "smollm2-135m", {})
    pinned = parent_version(where, "habit")
    assert pinned == parent_version(where, pinned) == older.version
    published(where.adapters, "habit", "smollm2-135m", {}, created=older.created + 1)
    for gone in (pinned, "nobody"):
        with pytest.raises(typer.BadParameter, match="there is no adapter"):
            parent_version(where, gone)


def test_a_job_whose_checkpoints_were_removed_does_not_begin_anew(tmp_path: Path) -> None:
    folder = tmp_path / "training" / "jobs" / job().id
    write_spec(folder, job().spec.model_copy(update={"adapters": tmp_path / "adapters"}))
    assert job_folder(Home(tmp_path), folder.name) == folder
    (folder / CLEARED).touch()
    with pytest.raises(typer.BadParameter, match="its checkpoints were removed"):
        job_folder(Home(tmp_path), folder.name)
    assert run(folder) == FAILED
    assert "its checkpoints were removed" in str([event.data for event in read_events(folder)])


def test_a_job_is_shown_as_it_goes(tmp_path: Path) -> None:
    console = Console(width=150, record=True, force_terminal=False)
    log = EventLog(tmp_path)
    log.add("log", level="info", message="[old]")
    with Display(tmp_path, console) as display:
        log.add("stage", stage="train")
        log.add("log", level="warning", message="3 were [cut]")
        log.add("evaluation", step=1, loss=2.5)
        step = {"step": 2, "steps": 8, "epoch": 0.5, "loss": 1.25, "learning_rate": 2e-4, "grad_norm": 1.0}
        log.add("progress", **step, tokens_per_second=1234.5, memory_mb=900, eta_seconds=75.0)
        log.add("state", state="failed", error="diverged")
        display.update()
    said = console.export_text()
    assert "[old]" not in said
    assert "3 were [cut]" in said
    assert "train" in said
    assert "2/8" in said
    told = "loss 1.250 · validation 2.500 · rate 2.0e-04 · 1,234 tokens/s · 900 MB · 0:01:15 to go"
    assert told in " ".join(said.split())
    assert (display.state, display.error) == ("failed", "diverged")


def test_recipes_are_shown() -> None:
    done = CliRunner().invoke(app, ["train", "recipes"], env={"COLUMNS": "160"})
    assert done.exit_code == 0
    assert all(name in done.output for name in load_recipes())


def test_what_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    bare = CliRunner().invoke(app, ["train", "here"], env={"COLUMNS": "160"})
    assert bare.exit_code == 2
    assert "DATASET and --base and --name must be given" in bare.output
    gone = CliRunner().invoke(app, ASKED, env={"COLUMNS": "160"})
    assert gone.exit_code == 2
    assert "no dataset" in gone.output
