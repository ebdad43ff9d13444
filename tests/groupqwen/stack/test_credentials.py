from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from configs.home import Home
from groupqwen.stack.credentials import KEY_VARIABLE, load_credentials, remember_key
from groupqwen.stack.problem import StartProblem
from serve_app.keys import hash_key, read_keys, rotate_key


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


def test_secrets_are_made_once_and_readable_by_the_owner_only(home: Home) -> None:
    made = load_credentials(home)
    assert load_credentials(home) == made
    assert home.credentials.stat().st_mode & 0o777 == 0o600
    assert home.root.stat().st_mode & 0o777 == 0o700
    values = list(asdict(made).values())
    assert len(set(values)) == len(values)
    assert all(len(value) >= 24 for value in values)


def test_the_key_ring_holds_only_the_hash_of_the_owners_key(home: Home) -> None:
    made = load_credentials(home)
    ring = home.keys.read_text()
    assert all(secret not in ring for secret in asdict(made).values())
    (key,) = read_keys(home.keys)
    assert (key.name, key.sha256) == ("owner", hash_key(made.api_key))


def test_a_revoked_key_is_made_anew_and_the_passwords_stay(home: Home) -> None:
    made = load_credentials(home)
    home.keys.unlink()
    again = load_credentials(home)
    assert again.api_key != made.api_key
    assert (again.redis_password, again.postgres_password) == (made.redis_password, made.postgres_password)
    assert [key.sha256 for key in read_keys(home.keys)] == [hash_key(again.api_key)]
    assert load_credentials(home) == again


def test_the_owners_own_key_that_was_rotated_is_remembered(home: Home) -> None:
    made = load_credentials(home)
    [owner] = read_keys(home.keys)
    secret = rotate_key(home.keys, owner.id)
    assert secret is not None
    remember_key(home, "another key's hash", "gq-of-another")
    assert json.loads(home.credentials.read_text())["api_key"] == made.api_key
    remember_key(home, owner.sha256, secret)
    assert load_credentials(home).api_key == secret
    assert [key.id for key in read_keys(home.keys)] == [owner.id], "and no second one is made"


def test_a_missing_secret_is_filled_in_and_an_open_file_is_closed(home: Home) -> None:
    made = load_credentials(home)
    stored = asdict(made)
    del stored["ray_token"]
    home.credentials.write_text(json.dumps(stored))
    home.credentials.chmod(0o644)
    again = load_credentials(home)
    assert (again.api_key, again.redis_password) == (made.api_key, made.redis_password)
    assert len(again.ray_token) == 64
    assert home.credentials.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.root.iterdir() if path.name.endswith(".new")] == []


def test_a_key_from_the_environment_takes_the_place_of_the_one_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_credentials(home)
    monkeypatch.setenv(KEY_VARIABLE, "a" * 48)
    assert load_credentials(home).api_key == "a" * 48
    assert [key.sha256 for key in read_keys(home.keys)] == [hash_key("a" * 48)], "the old one is worth nothing now"
    assert load_credentials(home).api_key == "a" * 48
    monkeypatch.delenv(KEY_VARIABLE)
    assert load_credentials(home).api_key == "a" * 48, "it stays without the variable"
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(StartProblem, match="shorter than 20"):
        load_credentials(home)
