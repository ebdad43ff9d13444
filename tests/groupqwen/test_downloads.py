from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.catalog import Source
from configs.home import Home
from groupqwen.downloads import DownloadError, fetch, fetch_repository, hash_file, is_ready, make_folder
from groupqwen.models import WantedFile, dequantize, take_over

PARTS = [b"first " * 1000, b"second " * 1000, b"third"]
WHOLE = b"".join(PARTS)
SHA256 = hashlib.sha256(WHOLE).hexdigest()


def parts(folder: Path, *numbers: int) -> Source:
    """A source of three parts, of which those `numbers` are there."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"part{number}").write_bytes(PARTS[number - 1])
    return Source(uri=f"file:{folder}/part{{n}}", parts=3, sha256=SHA256, bytes=len(WHOLE))


def whole(path: Path, data: bytes = WHOLE, sha256: str | None = SHA256) -> Source:
    path.write_bytes(data)
    return Source(uri=f"file:{path}", sha256=sha256)


def others(target: Path) -> list[str]:
    """What lies beside the target, but for its note and lock."""
    known = {target.name, f".{target.name}.verified", f"{target.name}.lock"}
    return sorted(path.name for path in target.parent.iterdir() if path.name not in known)


def test_a_file_in_parts_comes_whole_and_verified(tmp_path: Path) -> None:
    source, target = parts(tmp_path / "hub", 1, 2, 3), tmp_path / "home" / "model.gguf"
    seen: list[int] = []
    assert not is_ready(source, target)
    assert fetch(source, target, seen.append) == target
    assert target.read_bytes() == WHOLE
    assert seen == sorted(seen)
    assert seen[-1] == len(WHOLE)
    assert is_ready(source, target)
    assert others(target) == []


def test_parts_that_had_come_are_not_fetched_again(tmp_path: Path) -> None:
    source, target = parts(tmp_path / "hub", 1, 2), tmp_path / "home" / "model.gguf"
    with pytest.raises(DownloadError, match="part3 is not there"):
        fetch(source, target)
    assert not target.exists()
    (tmp_path / "hub" / "part1").unlink()
    (tmp_path / "hub" / "part2").write_bytes(b"replaced by something else")
    parts(tmp_path / "hub", 3)
    assert fetch(source, target).read_bytes() == WHOLE


@pytest.mark.parametrize("in_parts", [True, False])
def test_what_is_not_what_is_pinned_is_thrown_away_and_told(tmp_path: Path, in_parts: bool) -> None:
    source = parts(tmp_path / "hub", 1, 2, 3) if in_parts else whole(tmp_path / "file")
    bad = tmp_path / "hub" / "part2" if in_parts else tmp_path / "file"
    good = bad.read_bytes()
    bad.write_bytes(b"not this")
    target = tmp_path / "home" / "model.gguf"
    with pytest.raises(DownloadError, match=rf"model\.gguf.*{SHA256}.*thrown away"):
        fetch(source, target)
    assert not target.exists()
    assert not is_ready(source, target)
    assert others(target) == []
    bad.write_bytes(good)
    assert fetch(source, target).read_bytes() == WHOLE, "nothing of the wrong file was kept"


def test_a_verified_file_is_not_fetched_again(tmp_path: Path) -> None:
    source, target = whole(tmp_path / "file"), tmp_path / "model.gguf"
    fetch(source, target)
    (tmp_path / "file").unlink()
    seen: list[int] = []
    assert fetch(source, target, seen.append) == target
    assert seen == [len(WHOLE)]
    other = source.model_copy(update={"sha256": "0" * 64})
    assert not is_ready(other, target), "another pin is another file"


def test_a_file_that_was_changed_since_is_fetched_again(tmp_path: Path) -> None:
    source, target = whole(tmp_path / "file"), tmp_path / "model.gguf"
    fetch(source, target)
    target.write_bytes(b"changed")
    assert not is_ready(source, target)
    assert fetch(source, target).read_bytes() == WHOLE
    (tmp_path / f".{target.name}.verified").write_text("{broken")
    assert not is_ready(source, target)
    assert fetch(source, target).read_bytes() == WHOLE
    assert is_ready(source, target)


def test_a_right_file_that_someone_put_there_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(WHOLE)
    assert fetch(Source(uri="file:/nowhere", sha256=SHA256), target) == target
    with pytest.raises(DownloadError, match="not there"):
        fetch(Source(uri="file:/nowhere", sha256="0" * 64), target)


def test_an_unpinned_file_is_remembered_as_it_came(tmp_path: Path) -> None:
    source, target = whole(tmp_path / "config.json", b"{}", None), tmp_path / "home" / "config.json"
    fetch(source, target)
    assert is_ready(source, target)
    assert hash_file(target) == hashlib.sha256(b"{}").hexdigest()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    source = whole(tmp_path / "file").model_copy(update={"bytes": 1 << 60})
    with pytest.raises(DownloadError, match="GROUPQWEN_HOME"):
        fetch(source, tmp_path / "home" / "model.gguf")
    assert others(tmp_path / "home" / "model.gguf") == []


def test_two_processes_at_once_end_with_one_whole_file(tmp_path: Path) -> None:
    source, target = parts(tmp_path / "hub", 1, 2, 3), tmp_path / "home" / "model.gguf"
    gate = tmp_path / "gate"
    code = (
        "import sys, time; from pathlib import Path; from configs.catalog import Source\n"
        "from groupqwen.downloads import fetch, is_ready\n"
        "source, target = Source.model_validate_json(sys.argv[1]), Path(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "while not Path(sys.argv[3]).exists(): time.sleep(0.001)\n"
        "fetch(source, target); assert is_ready(source, target)"
    )
    command = [sys.executable, "-c", code, source.model_dump_json(), str(target), str(gate)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    gate.touch()
    assert [process.wait(30) for process in running] == [0, 0]
    for process in running:
        assert process.stdout is not None
        process.stdout.close()
    assert target.read_bytes() == WHOLE
    assert others(target) == []


def test_variants_of_the_same_weights_share_one_file(tmp_path: Path) -> None:
    here = Home(tmp_path / "home")
    source = whole(tmp_path / "weights")
    first = WantedFile("one", source, here.models / "one" / "a.gguf")
    fetch(source, first.target)
    (tmp_path / "weights").unlink()  # It could not be fetched a second time.
    second = WantedFile("two", source, here.models / "two" / "b.gguf")
    take_over([first, second])
    assert is_ready(source, second.target)
    assert second.target.samefile(first.target)
    assert others(second.target) == []


def test_other_weights_are_not_taken_over(tmp_path: Path) -> None:
    here = Home(tmp_path / "home")
    fetch(whole(tmp_path / "weights"), here.models / "one" / "a.gguf")
    unpinned = WantedFile("two", Source(uri="file:/x"), here.models / "two" / "b.gguf")
    other = WantedFile("three", Source(uri="file:/x", sha256="0" * 64), here.models / "three" / "c.gguf")
    take_over([unpinned, other])
    assert not unpinned.target.exists()
    assert not other.target.exists()


def test_a_repository_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"did not give Qwen/Qwen3-VL-8B-Instruct-FP8.*HF_ENDPOINT"):
        source = Source(uri="hf:Qwen/Qwen3-VL-8B-Instruct-FP8")
        make_folder(source, tmp_path / "safetensors", lambda folder: fetch_repository(source, folder))
    assert not (tmp_path / "safetensors").exists()


def test_a_folder_is_made_once_and_anew_for_another_source(tmp_path: Path) -> None:
    target, made = tmp_path / "safetensors", []

    def fill(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        made.append((folder / "weights").write_text(str(len(made))))

    def broken(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        raise DownloadError("no disk")

    first, second = Source(uri="hf:a/b@1"), Source(uri="hf:a/b@2")
    for _ in range(2):
        make_folder(first, target, fill)
    assert len(made) == 1, "what is there is asked of nobody"
    with pytest.raises(DownloadError, match="no disk"):
        make_folder(second, target, broken)
    assert (target / "weights").read_text() == "0", "the old one stays until the new one is whole"
    make_folder(second, target, fill)
    assert (target / "weights").read_text() == "1"


def test_weights_that_cannot_be_made_into_safetensors_are_told(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    with pytest.raises(DownloadError, match=r"broken\.gguf could not be made into safetensors: .+"):
        dequantize(tmp_path / "broken.gguf", tmp_path / "safetensors")
    assert not (tmp_path / "safetensors").exists()
