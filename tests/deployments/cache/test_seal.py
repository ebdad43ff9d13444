from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.cache.seal import KEY_BYTES, Open, Sealed, Unreadable, make_key, seal_named, seal_of

ONE, OTHER = Sealed(b"1" * KEY_BYTES), Sealed(b"2" * KEY_BYTES)


@given(st.text(), st.text())
def test_a_text_is_read_again_in_its_place_with_its_key_and_nowhere_else(text: str, place: str) -> None:
    kept = ONE.close(text, place)
    assert ONE.open(kept, place) == text.encode("utf-8", "replace").decode()
    assert ONE.close(text, place) != kept, "nobody sees that two are the same"
    for seal, where in ((OTHER, place), (ONE, f"{place}x")):
        with pytest.raises(Unreadable):
            seal.open(kept, where)


@given(st.integers(min_value=0), st.integers(1, 255))
def test_what_was_changed_is_not_read(place: int, by: int) -> None:
    sealed = bytearray(base64.b64decode(ONE.close("Paris.", "e1")))
    sealed[place % len(sealed)] ^= by
    with pytest.raises(Unreadable):
        ONE.open(base64.b64encode(bytes(sealed)).decode(), "e1")


@given(st.text())
def test_nonsense_is_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        ONE.open(text, "e1")


def test_a_replica_keeps_to_the_seal_that_was_deployed(tmp_path: Path) -> None:
    path = tmp_path / "cache.key"
    assert seal_named(path, "open").name == "open"
    make_key(path)
    assert seal_named(path, "open").name == "open", "until it is deployed anew"
    name = seal_of(path).name
    assert seal_named(path, name).name == name
    path.unlink()
    make_key(path)
    lost = seal_named(path, name)
    assert lost.name not in (name, "open", seal_of(path).name), "one that finds nothing"
    path.write_text("damaged")
    assert seal_named(path, name).name not in (name, "open")


def test_names_tell_nothing_without_the_key_and_are_the_same_with_it() -> None:
    assert ONE.named("a") == Sealed(b"1" * KEY_BYTES).named("a") != OTHER.named("a")
    assert len(ONE.named("a")) == 40
    assert ONE.name != OTHER.name
    assert Open().named("a") == "a"


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache.key"
    assert seal_of(path).name == "open"
    make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert seal_of(path).name == seal_of(path).name != "open"
    with pytest.raises(FileExistsError):
        make_key(path)
    for damaged in ("", "short", "ä" * 44, "%%%"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="holds no key"):
            seal_of(path)
