from __future__ import annotations

import pytest
from pydantic import ValidationError

from configs.ledger import QueryText
from configs.tracing import TraceRules
from serve_app import tracing
from serve_app.tracing import Sampler, trace_by, traced

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def test_nothing_is_traced_unless_the_owner_says_so() -> None:
    assert traced(PARENT) is None
    trace_by({"to": "file"})
    found = traced(PARENT)
    assert found is not None and found.parent == PARENT and not found.words
    trace_by(None)
    assert traced(PARENT) is None
    with pytest.raises(ValidationError):
        trace_by({"to": "nowhere"})
    assert tracing._sampler is None


def test_the_share_is_the_owners_whatever_a_client_says() -> None:
    draws = iter([0.05, 0.2, 0.9, 0.0999])
    sampler = Sampler(TraceRules(to="file", share=0.1), draw=lambda: next(draws))
    assert [sampler.take(PARENT) is not None for _ in range(4)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("wanted", "usual", "of_the_key", "words"),
    [
        (True, "text", None, True),
        (True, "text", "none", False),
        (True, "text", "hash", False),
        (True, "none", None, False),
        (True, "hash", "text", True),
        (False, "text", "text", False),
    ],
)
def test_words_are_traced_only_of_who_has_them_kept(
    wanted: bool, usual: QueryText, of_the_key: QueryText | None, words: bool
) -> None:
    found = Sampler(TraceRules(to="file", words=wanted), usual).take(None, of_the_key)
    assert found is not None and found.words is words


def test_there_is_a_bound_on_what_is_traced() -> None:
    now = 100.0
    sampler = Sampler(TraceRules(to="file", most_per_minute=6), clock=lambda: now)
    assert sum(sampler.take(None) is not None for _ in range(50)) == 6
    now += 20
    assert sum(sampler.take(PARENT) is not None for _ in range(50)) == 2
    now += 3600
    assert sum(sampler.take(None) is not None for _ in range(50)) == 6


@pytest.mark.parametrize(
    ("to", "as_kept"),
    [
        ("file", "file"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("https://otel.example/base/", "https://otel.example/base"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318"),
    ],
)
def test_where_spans_may_go(to: str, as_kept: str) -> None:
    assert TraceRules(to=to).to == as_kept


@pytest.mark.parametrize(
    "to",
    [
        "",
        "files",
        "ftp://there",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://user:secret@host",
        "https://host/?key=secret",
        "https://host/#part",
        "http://ho st",
        "http://host\n",
    ],
)
def test_what_is_no_place_or_holds_a_secret_is_refused(to: str) -> None:
    with pytest.raises(ValidationError):
        TraceRules(to=to)
