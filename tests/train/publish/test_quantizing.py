"""What is around llm-compressor: its folder, its samples, its groups. (It itself takes minutes for the smallest
model.)"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from train.publish import quantizing
from train.publish.errors import ExportError
from train.publish.quantizing import SAMPLES, install, is_installed, sample_texts


def wheel(folder: Path, version: str) -> None:
    """A package with nothing but a version."""
    name = f"colours-{version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as file:
        file.writestr("colours.py", f"VERSION = {version!r}\n")
        file.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: colours\nVersion: {version}\n")
        file.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}.dist-info/RECORD", "")


def test_its_folder_is_made_once_and_anew_for_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    tools = tmp_path / "home" / "quantizer"
    monkeypatch.setattr(quantizing, "REQUIREMENTS", ("colours==1.0",))
    with pytest.raises(ExportError, match="could not be installed: ERROR: No matching distribution"):
        install(tools)
    assert not is_installed(tools)
    wheel(tmp_path, "1.0")
    install(tools)
    assert is_installed(tools)
    assert (tools / "colours.py").read_text() == "VERSION = '1.0'\n"
    monkeypatch.setattr(quantizing, "REQUIREMENTS", ("colours==2.0",))
    assert not is_installed(tools)
    wheel(tmp_path, "2.0")
    install(tools)
    assert (tools / "colours.py").read_text() == "VERSION = '2.0'\n"
    (tmp_path / "colours-2.0-py3-none-any.whl").unlink()
    install(tools)  # It is there: nobody is asked.
    assert [one.name for one in tools.parent.iterdir()] == ["quantizer"]


def test_its_samples_are_the_conversations_as_the_model_reads_them(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models["qwen3"])
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
    (tmp_path / "train.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * (SAMPLES + 5))
    texts = sample_texts(tokenizer, tmp_path)
    assert len(texts) == SAMPLES
    assert texts[0] == "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
    tokenizer.chat_template = None
    assert sample_texts(tokenizer, tmp_path)[0] == "One?\nTwo."
    for empty in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(ExportError, match="no conversation"):
            sample_texts(tokenizer, empty)
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty" / "train.jsonl").touch()


@pytest.mark.parametrize(("widths", "size"), [((4096, 1024), 128), ((576, 1536), 64), ((96, 128), 32)])
def test_groups_are_the_largest_that_fit_all_rows(widths: tuple[int, ...], size: int) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(width, 8) for width in widths))
    told = quantizing._four_bits("awq", model)
    assert told["group_size"] == size
    assert told["symmetric"] is False
    assert quantizing._four_bits("gptq", model)["symmetric"] is True


def test_rows_that_fit_no_groups_are_refused() -> None:
    with pytest.raises(ExportError, match="rows of 100 weights"):
        quantizing._four_bits("gptq", torch.nn.Linear(100, 8))
