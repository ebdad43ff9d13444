from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger import record as recording
from deployments.ledger.keeping import HASHED, QUERY_CHARS, Keeping, salt_at
from deployments.ledger.record import Progress, QueryRecord
from deployments.ledger.store import COLUMNS
from deployments.router.decision import Attempt, Candidate, Routed, RouteDecision

CATALOG = load_catalog()
KEEPING = Keeping("text", b"salt")
DECISION = RouteDecision(
    variant="qwen3-8b",
    reason="simple query",
    requested="auto",
    device="mobile",
    candidates=(Candidate("qwen3-8b"), Candidate("qwen3-4b", "too small")),
)
REQUEST = ChatRequest.model_validate(
    {
        "model": "auto",
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "an answer"},
            {"role": "user", "content": [{"type": "text", "text": "second " + "x" * 1000}]},
        ],
    }
)


def begun() -> QueryRecord:
    context = RequestContext(
        "r1", key_id="key_1", user="ann", session="s", device="mobile", received=time.time() - 2
    )
    return QueryRecord.begin(REQUEST, context, KEEPING)


def test_a_row_has_the_tables_columns_and_json_types_only() -> None:
    record = begun()
    record.route(DECISION, "miss", 0.3)
    row = json.loads(json.dumps(record.as_row()))
    assert set(row) == set(COLUMNS)
    assert (row["request_id"], row["key_id"], row["user"], row["device"]) == ("r1", "key_1", "ann", "mobile")
    assert row["requested"] == "auto"
    assert row["query"].startswith("second x")
    assert len(row["query"]) == QUERY_CHARS
    passed = row["trace"]["candidates"][1]
    assert (passed["variant"], passed["passed_over"]) == ("qwen3-4b", "too small")


def watched(received: float | None = None) -> Progress:
    builder = ChunkBuilder("r1", "qwen3-8b")
    progress = Progress(time.time() if received is None else received)
    progress.see(Routed(DECISION, "miss"))
    progress.see(builder.delta(0, role="assistant", content=""))
    assert progress.first_token is None, "a role is no token"
    progress.see(builder.delta(0, reasoning="hm"))
    first = progress.first_token
    assert first is not None
    progress.see(builder.delta(0, content="Yes"))
    progress.see(builder.delta(0, finish_reason="length"))
    progress.see(builder.usage(token_usage(1000, 500, cached=200)))
    assert progress.first_token == first
    return progress


def test_tokens_times_and_cost_are_taken_from_what_passed() -> None:
    record = begun()
    record.route(DECISION, "miss", None)
    record.finish(watched(record.at), CATALOG)
    price = CATALOG.variants["qwen3-8b"].price
    assert record.cost_usd == pytest.approx((1000 * price.input + 500 * price.output) / 1e6)
    assert record.cost_usd > 0
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (1000, 500, 200)
    assert record.finish_reason == "length"
    assert record.ttft_ms is not None
    assert 2000 <= record.ttft_ms <= record.latency_ms < 60_000


@pytest.mark.parametrize("outcome", ["exact", "semantic"])
def test_a_cached_answer_costs_nothing_and_names_who_gave_it(outcome: str) -> None:
    record = begun()
    record.route(DECISION, outcome, 0.02, variant="qwen3-4b")  # type: ignore[arg-type]
    record.finish(watched(), CATALOG)
    assert (record.cost_usd, record.variant, record.cache_distance) == (0.0, "qwen3-4b", 0.02)


def test_what_the_largest_would_have_cost_more_is_saved() -> None:
    served = tuple(CATALOG.variants)
    prices = [CATALOG.variants[name].price for name in served]
    whole = max((1000 * price.input + 500 * price.output) / 1e6 for price in prices)
    record = begun()
    record.route(DECISION, "miss", None)
    record.finish(watched(), CATALOG, served)
    assert record.saved_usd == pytest.approx(whole - record.cost_usd) and record.saved_usd > 0
    hit = begun()
    hit.route(DECISION, "exact", 0.0)
    hit.finish(watched(), CATALOG, served)
    assert hit.saved_usd == pytest.approx(whole)
    failed = begun()
    failed.fail(503, "gone")
    failed.finish(watched(), CATALOG, served)
    assert failed.saved_usd == 0


def test_a_failure_keeps_its_status_and_a_bounded_reason() -> None:
    record = begun()
    record.fail(499, "gone " * 1000)
    record.finish(Progress(record.at), CATALOG)
    assert (record.status, record.variant, record.cost_usd, record.ttft_ms) == (499, None, 0.0, None)
    assert record.error is not None
    assert len(record.error) == QUERY_CHARS
    assert record.latency_ms >= 2000


def test_who_was_asked_in_vain_costs_something_and_who_was_heard_is_counted_once() -> None:
    small, large = (CATALOG.variants[name].price for name in ("qwen3-4b", "qwen3-8b"))
    progress = Progress(time.time())
    progress.usage = token_usage(100, 50)

    def cost(*attempts: Attempt) -> float:
        record = begun()
        record.route(replace(DECISION, attempts=attempts), "miss", None)
        record.finish(progress, CATALOG)
        return record.cost_usd * 1e6

    answered = Attempt("qwen3-8b", "answered", 50, 1.0, heard=True)
    alone = 100 * large.input + 50 * large.output
    assert cost(answered) == pytest.approx(alone)
    vain = Attempt("qwen3-4b", "escalated", 30, 1.0)
    assert cost(vain, answered) == pytest.approx(alone + 100 * small.input + 30 * small.output)
    begun_by = Attempt("qwen3-4b", "cut", 30, 1.0, heard=True)
    both = 100 * (large.input + small.input) + 30 * small.output + 20 * large.output
    assert cost(begun_by, answered) == pytest.approx(both)
    checked = replace(vain, checked=200)
    spent = alone + (100 + 200) * small.input + 30 * small.output
    assert cost(checked, answered) == pytest.approx(spent), "asked about its own answer, which it read"


def test_a_row_tells_who_was_unsure_and_how_sure_the_last_was() -> None:
    vain = Attempt("qwen3-4b", "escalated", 30, 1.0, confidence=0.3)
    record = begun()
    record.route(replace(DECISION, attempts=(vain, Attempt("qwen3-8b", "answered", 50, 1.0, 0.9))), "miss", None)
    assert (record.escalations, record.confidence) == (1, 0.9)


def test_what_was_asked_before_a_client_left_costs_too() -> None:
    record = begun()
    vain = Attempt("qwen3-4b", "escalated", 30, 1.0)
    record.route(replace(DECISION, attempts=(vain, vain)), "miss", None)
    record.finish(Progress(time.time()), CATALOG)
    assert record.cost_usd * 1e6 == pytest.approx(30 * CATALOG.variants["qwen3-4b"].price.output)


def test_an_answer_that_was_left_is_counted_by_its_pieces() -> None:
    builder, progress = ChunkBuilder("r1", "qwen3-8b"), Progress(time.time())
    for text in ("Once", " upon", " a"):
        progress.see(builder.delta(0, content=text))
    record = begun()
    record.route(DECISION, "miss", None)
    record.finish(progress, CATALOG)
    assert record.completion_tokens == 3 and record.prompt_tokens == record.rough_tokens > 250
    assert record.cost_usd > 0, "who leaves before the end has not been served for nothing"


@pytest.mark.parametrize("moved", [-86_400.0, 86_400.0])
def test_a_clock_that_is_moved_changes_no_duration(monkeypatch: pytest.MonkeyPatch, moved: float) -> None:
    record = begun()
    progress = Progress(record.at)
    real = time.time
    monkeypatch.setattr(recording.time, "time", lambda: real() + moved)
    progress.see(ChunkBuilder("r1", "qwen3-8b").delta(0, content="Yes"))
    record.finish(progress, CATALOG)
    assert record.ttft_ms is not None
    assert 2000 <= record.ttft_ms <= record.latency_ms < 60_000


def test_a_question_that_is_not_to_be_kept_is_nowhere_in_its_row() -> None:
    asked = {"messages": [{"role": "user", "content": "my  secret"}]}
    request = ChatRequest.model_validate(asked)

    def row(usual: Any, own: Any) -> dict[str, Any]:
        context = RequestContext("r1", query_text=own)
        record = QueryRecord.begin(request, context, Keeping(usual, b"salt"))
        record.fail(400, "my  secret is no tool")
        return record.as_row()

    assert row("text", None)["query"] == "my  secret"
    assert "secret" in row("none", "text")["error"], "what the key says goes before what is usual"
    for policy in ("hash", "none"):
        for kept in (row(policy, None), row("text", policy)):
            assert "secret" not in json.dumps(kept)
            assert kept["error"] == "status 400"
    hashed = row("hash", None)["query"]
    assert hashed.startswith(HASHED) and row("none", None)["query"] == ""
    assert Keeping("hash", b"salt").kept("my secret", None) == hashed, "the same but for its spaces"
    assert Keeping("hash", b"other").kept("my secret", None) != hashed


def test_the_salt_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger.salt"
    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(lambda _: salt_at(path), range(8)))
    assert len(salts) == 1 and len(salts.pop()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.salt"]


def test_energy_is_charged_at_the_price_of_electricity() -> None:
    record = begun()
    record.drew(None, 0.3)
    assert record.energy_wh is None and record.electricity_usd is None
    record.drew(2.0, 0.3)
    assert record.electricity_usd == pytest.approx(0.0006)
