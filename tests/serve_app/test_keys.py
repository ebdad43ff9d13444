from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.budgets.limits import KeyLimits
from serve_app import keys
from serve_app.keys import PREFIX, SCOPES, KeyRing, LastAdmin, change_key, create_key, hash_key, read_keys


@pytest.fixture(autouse=True)
def _look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)


def test_a_key_is_found_by_its_secret_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    one, secret = create_key(path, "laptop")
    two, other = create_key(path, "phone")
    assert secret.startswith(PREFIX)
    assert len({secret, other}) == len({one.id, two.id}) == 2
    assert read_keys(path) == [one, two]
    text = path.read_text()
    assert secret not in text
    assert secret.removeprefix(PREFIX) not in text
    assert hash_key(secret) in text
    assert path.stat().st_mode & 0o777 == 0o600
    ring = KeyRing(path)
    assert ring.find(secret) == one
    assert ring.find(other) == two


@pytest.mark.parametrize("wrong", ["", PREFIX, "gq-guess", "\ud83d", "x" * 10_000])
def test_a_wrong_secret_finds_nothing(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "keys.json"
    _, secret = create_key(path, "laptop")
    ring = KeyRing(path)
    assert ring.find(wrong) is None
    assert ring.find(hash_key(secret)) is None, "the stored form is no key"


def test_a_key_counts_as_soon_as_it_is_made_and_not_once_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(path)
    assert ring.find("gq-any") is None
    _, first = create_key(path, "first")
    assert ring.find(first) is not None
    _, second = create_key(path, "second")
    assert ring.find(second) is not None
    staged = tmp_path / "new"
    staged.write_text(json.dumps({"keys": json.loads(path.read_text())["keys"][1:]}))
    staged.replace(path)
    assert ring.find(first) is None
    assert ring.find(second) is not None
    path.unlink()
    assert ring.find(second) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": [{"id": "a"}]}', '{"keys": 7}'])
def test_a_damaged_file_is_told_by_name_and_never_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"keys\.json is damaged"):
        read_keys(path)
    with pytest.raises(ValueError, match="damaged"):
        create_key(path, "new")
    assert path.read_text() == text


def test_a_key_may_prefer_something_and_old_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, secret = create_key(path, "laptop")
    assert change_key(path, key.id, preference="economy")
    assert change_key(path, key.id, group="family")
    assert not change_key(path, "key_none", preference="economy")
    ring = KeyRing(path)
    found = ring.find(secret)
    assert found is not None and found.preference == "economy" and found.group == "family"
    assert found.scopes == SCOPES and found.variants is None and found.remote
    plain = json.loads(path.read_text())
    plain["keys"][0]["of_tomorrow"] = [1]
    del plain["keys"][0]["preference"]
    path.write_text(json.dumps(plain))
    assert read_keys(path)[0].preference is None


def test_limits_are_kept_with_a_key_and_found_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    limits = KeyLimits(requests_per_minute=3, usd_per_day=0.5)
    key, _ = create_key(path, "phone", limits=limits, query_text="hash", own_cache=True)
    assert read_keys(path) == [key]
    ring = KeyRing(path)
    assert ring.limits(key.id) == limits
    assert ring.limits("key_none").counts_nothing
    plain = json.loads(path.read_text())
    plain["keys"][0]["limits"]["of_tomorrow"] = 1
    path.write_text(json.dumps(plain))
    assert read_keys(path)[0].limits == limits


def test_the_last_admin_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    owner, _ = create_key(path, "owner")
    with pytest.raises(LastAdmin):
        change_key(path, owner.id, scopes=("chat",))
    create_key(path, "second")
    assert change_key(path, owner.id, scopes=("chat",))
