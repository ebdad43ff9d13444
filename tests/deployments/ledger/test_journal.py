from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.ledger import journal
from deployments.ledger.journal import (
    Batch,
    Journal,
    forget_refused,
    pending_bytes,
    read_batch,
    read_offset,
    refuse,
    remove_if_done,
    write_offset,
)


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*.journal")
    return path


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """A journal file of `rows` whose writer is gone."""
    writer = Journal(folder)
    for row in rows:
        writer.append(row)
    writer.close()
    return the_file(folder)


def drain(folder: Path) -> list[dict[str, Any]]:
    """Every row of every file, as the Ledger takes them."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.journal")):
        offset = read_offset(path)
        while (batch := read_batch(path, offset, 2)).end != offset:
            rows += batch.rows
            offset = batch.end
            write_offset(path, offset)
        remove_if_done(path, offset)
    return rows


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rows_of_anything = st.lists(st.dictionaries(st.text(max_size=6), json_values, max_size=4), max_size=8)


def storable(value: Any) -> Any:
    """What PostgreSQL can keep of a JSON value."""
    if isinstance(value, str):
        return "".join("?" if "\ud800" <= char <= "\udfff" else char for char in value if char != "\x00")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=150)
@given(rows_of_anything, st.integers(1, 4))
def test_every_row_comes_back_storable_in_order_and_in_batches(rows: list[dict[str, Any]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = written(Path(name), *rows)
        read: list[dict[str, Any]] = []
        offset = 0
        while (batch := read_batch(path, offset, limit)).end != offset:
            assert len(batch.rows) <= limit
            assert batch.damaged == 0
            read += batch.rows
            offset = batch.end
        assert read == [storable(row) for row in rows]
        json.dumps(read, ensure_ascii=False).encode()
        assert "\x00" not in str(read)
        assert offset == path.stat().st_size


def test_lone_surrogates_and_nul_become_storable_in_keys_and_values(tmp_path: Path) -> None:
    row = {"query": "a\x00b\ud83dc", "trace": {"k\x00": ["\udc00", "🙂", "\\u0000"]}}
    path = written(tmp_path, row)
    assert read_batch(path, 0, 9).rows == [{"query": "ab?c", "trace": {"k": ["?", "🙂", "\\u0000"]}}]


def test_a_line_without_its_end_is_left_until_it_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path, {"n": 1}, {"n": 2})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    batch = read_batch(path, 0, 9)
    assert (batch.rows, batch.damaged) == ([{"n": 1}], 0)
    path.write_bytes(whole)
    assert read_batch(path, batch.end, 9) == Batch(path, [{"n": 2}], batch.end, len(whole), 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"2", b"3"),
        lambda line: b"zz" + line[2:],
        lambda line: b"\n",
        lambda line: b"\xff\x00\xfe" * 5 + b"\n",
        lambda line: line[:20] + b"\n",
        lambda line: line[1:],
    ],
)
def test_a_damaged_line_is_counted_and_skipped_and_those_around_it_are_read(tmp_path: Path, damage: Any) -> None:
    path = written(tmp_path, {"number": 1}, {"number": 2}, {"number": 3})
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage(second) + third)
    batch = read_batch(path, 0, 9)
    assert (batch.rows, batch.damaged) == ([{"number": 1}, {"number": 3}], 1)
    assert batch.end == path.stat().st_size


@settings(max_examples=80)
@given(st.integers(0, 200), st.integers(1, 255))
def test_no_flipped_bit_gives_a_row_that_was_not_written(at: int, flip: int) -> None:
    rows = [{"id": "one", "n": 1}, {"id": "two", "n": 2}, {"id": "three", "n": 3}]
    with tempfile.TemporaryDirectory() as name:
        path = written(Path(name), *rows)
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= flip
        path.write_bytes(data)
        read = read_batch(path, 0, 9).rows
        assert all(row in rows for row in read)
        assert len(read) >= 1, "one damaged byte touches two lines at most"


def test_a_full_file_is_followed_by_another_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 300)
    writer = Journal(tmp_path)
    rows = [{"n": n, "text": "x" * 40} for n in range(20)]
    for row in rows:
        writer.append(row)
    files = sorted(tmp_path.glob("*.journal"))
    assert len(files) >= 4
    assert all(path.stat().st_size <= 300 for path in files)
    assert sorted(drain(tmp_path), key=lambda row: row["n"]) == rows
    assert len(list(tmp_path.glob("*.journal"))) == 1, "only the file that is written to stays"
    writer.close()


def test_a_file_is_removed_only_when_its_writer_is_gone_and_all_is_read(tmp_path: Path) -> None:
    writer = Journal(tmp_path)
    writer.append({"n": 1})
    path = the_file(tmp_path)
    end = path.stat().st_size
    write_offset(path, end)
    assert not remove_if_done(path, end), "its writer lives"
    writer.append({"n": 2})
    writer.close()
    assert not remove_if_done(path, end), "a row is unread"
    assert remove_if_done(path, path.stat().st_size)
    assert list(tmp_path.iterdir()) == []


def test_the_half_line_of_a_dead_writer_does_not_keep_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"n": 1})
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'1234abcd {"n"')
    assert remove_if_done(path, end)
    assert not path.exists()


def test_a_killed_writers_rows_are_there_and_its_lock_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deployments.ledger.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append({'n': 1}); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    assert done.returncode == -9
    assert drain(tmp_path) == [{"n": 1}]
    assert list(tmp_path.glob("*.journal")) == []


def test_offsets_survive_and_a_missing_or_broken_one_is_zero(tmp_path: Path) -> None:
    path = written(tmp_path, {"n": 1}, {"n": 2})
    assert read_offset(path) == 0
    assert pending_bytes(tmp_path) == path.stat().st_size
    write_offset(path, 7)
    assert read_offset(path) == 7
    assert pending_bytes(tmp_path) == path.stat().st_size - 7
    path.with_suffix(".offset").write_text("what?")
    assert read_offset(path) == 0
    assert pending_bytes(tmp_path / "nowhere") == 0


def test_journals_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    path = written(folder, {"n": 1})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_that_looks_while_a_file_is_being_made_does_not_take_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    looked = False

    def reader_first(file: Any, operation: int) -> None:
        nonlocal looked
        if not looked:
            looked = True
            drain(tmp_path)  # between the writer's open and its lock
        lock(file, operation)

    monkeypatch.setattr(journal.fcntl, "flock", reader_first)
    writer = Journal(tmp_path)
    writer.append({"n": 1})
    assert looked
    assert drain(tmp_path) == [{"n": 1}]


def test_a_rotation_that_fails_loses_no_acknowledged_row_and_touches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 40)
    folder, away = tmp_path / "journal", tmp_path / "away"
    acknowledged = []

    def append(n: int) -> None:
        with contextlib.suppress(OSError):
            writer.append({"n": n, "text": "x" * 40})
            acknowledged.append(n)

    writer = Journal(folder)
    append(1)
    folder.rename(away)
    folder.touch()  # no new file can be made here
    append(2)
    innocent = os.open(tmp_path / "innocent", os.O_CREAT | os.O_RDWR)  # gets the lowest free descriptor
    append(3)
    assert os.fstat(innocent).st_size == 0, "a row went into a stranger's file"
    folder.unlink()
    away.rename(folder)
    append(4)
    assert acknowledged[-1] == 4, "the journal goes on as soon as it can"
    assert sorted(row["n"] for row in drain(folder)) == acknowledged
    os.close(innocent)
    writer.close()


def test_a_full_disk_keeps_rows_waiting_and_gets_them_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Journal(tmp_path)
    writer.append({"n": 0})
    good = writer._file
    writer._file = os.open("/dev/full", os.O_WRONLY)
    for number in range(1, 4):
        writer.append({"n": number})
    assert writer.waiting == 3
    monkeypatch.setattr(journal, "MOST_WAITING", 3)
    with pytest.raises(OSError, match="No space left"):
        writer.append({"n": "one too many"})
    os.close(writer._file)
    writer._file = good
    writer.append({"n": 4})
    assert writer.waiting == 0
    writer.close()
    assert [row["n"] for row in drain(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_disk_that_takes_half_a_row_has_it_once(tmp_path: Path) -> None:
    """The kernel's own limit on a file's size: the last bytes of it are taken, and no more."""
    code = """
import json, resource, signal, sys
from pathlib import Path
from deployments.ledger.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = Journal(Path(sys.argv[1]))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
for number in range(20):
    writer.append({"n": number})
waited = writer.waiting
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
writer.flush()
writer.close()
print(waited)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert 0 < int(done.stdout) < 20
    assert [row["n"] for row in drain(tmp_path)] == list(range(20))


def test_what_was_refused_goes_with_its_day(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    kept = refuse(tmp_path, {"query": "of today"}, "why")
    assert refuse(tmp_path, {"query": "also"}, "why") == kept
    assert len(kept.read_text().splitlines()) == 2
    old = tmp_path / f"refused-{today - timedelta(days=8)}.jsonl"
    old.write_text("{}\n")
    assert forget_refused(tmp_path, today - timedelta(days=9)) == []
    assert forget_refused(tmp_path, today - timedelta(days=7)) == [old.name]
    assert list(tmp_path.iterdir()) == [kept]
