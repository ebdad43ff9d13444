"""Mixed traffic at the machine's saturation, on a group of its own with the `cpu` profile: whether the query log
holds exactly what was answered, whether anything grows, and what a row takes of a request's time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from benchmarks.growth import ALLOWED_MIB, ALLOWED_SHARE, NAMES, Watched, growth, watching
from benchmarks.ledger_rows import Asked, Compared, Row, compare
from benchmarks.ledger_traffic import Keys, Traffic
from benchmarks.ledger_work import Histogram, alone, read_histogram
from benchmarks.live_residency import SETTLE_SECONDS, group
from benchmarks.load import percentile
from benchmarks.machine import console, show
from configs.home import home
from deployments.router.clerk import Spent
from groupqwen.stack.credentials import Credentials
from groupqwen.stack.settings import Settings

PROFILE = "cpu"
PORT_OFFSET = 4700
CATCH_UP_SECONDS = 120.0
ALONE = 20_000
BOUND_SECONDS = 5e-4
"""What ledger work on a request's path shall take at most, at its 99 % quantile."""

SHOWN = 20
"""Faults that are printed, of each kind."""

CLOCKS = {"wall": "by the clock", "cpu": "of them on a processor"}

LIMITED = {"requests_per_minute": 30, "concurrent": 2}


@dataclass(frozen=True)
class Loaded:
    """What a run has shown. `work`: by clock. `seconds`: until the last answer; `caught_up`: after that, until the
    last row was there."""

    traffic: Traffic
    watched: Watched
    rows: list[Row]
    work: dict[str, Histogram]
    seconds: float
    caught_up: float


def main(minutes: float, clients: int, plots: Path | None) -> None:
    """Measure and print."""
    by_itself = asyncio.run(alone(ALONE))
    with group(PROFILE, PORT_OFFSET) as (settings, credentials):
        variants = list(settings.profile.variants)
        loaded = asyncio.run(_load(settings, credentials, minutes, clients))
    kept = home().root / "benchmarks" / "ledger-load.csv"
    loaded.watched.write(kept)
    report(loaded, clients, by_itself)
    from benchmarks.plots import memory_plot

    plot = (plots or kept.parent) / "ledger-load.png"
    memory_plot(loaded.watched, variants, sorted(set(NAMES.values())), plot)
    console.print(f"Every second of every process: {kept}; the plot: {plot}")


async def _load(settings: Settings, credentials: Credentials, minutes: float, clients: int) -> Loaded:
    headers = {"authorization": f"Bearer {credentials.api_key}"}
    async with httpx.AsyncClient(base_url=settings.endpoint, headers=headers, timeout=60) as owner:
        keys = await _make_keys(owner)
        traffic = Traffic(settings.endpoint, keys, list(settings.profile.variants))
        since = datetime.now(UTC)
        with watching(settings) as watched, console.status(f"{clients} clients ask for {minutes:g} minutes …"):
            began = time.monotonic()
            await traffic.run(clients, 60 * minutes)
            seconds = time.monotonic() - began
        with console.status("Waiting for the Ledger and the metrics …"):
            url = settings.environment(credentials)["GROUPQWEN_DATABASE_URL"]
            rows, caught_up = await _rows(url, since, traffic.asked)
            await asyncio.sleep(SETTLE_SECONDS)
            metrics = (await owner.get("metrics")).raise_for_status().text
    work = {clock: read_histogram(metrics, clock) for clock in CLOCKS}
    return Loaded(traffic, watched, rows, work, seconds, caught_up)


async def _make_keys(owner: httpx.AsyncClient) -> Keys:
    async def make(name: str, **fields: Any) -> dict[str, Any]:
        made = (await owner.post("keys", json={"name": name, **fields})).raise_for_status()
        return dict(made.json())

    usual = [
        await make("usual"),
        await make("hashed", query_text="hash"),
        await make("thrifty", preference="economy", query_text="none"),
        await make("budgeted", limits={"usd_per_day": 1000, "requests_per_minute": 100_000}),
    ]
    limited, revoked = await make("limited", limits=LIMITED), await make("revoked")
    (await owner.delete(f"keys/{revoked['id']}")).raise_for_status()
    await asyncio.sleep(2)  # (Keys count within a second.)
    return Keys([key["secret"] for key in usual], limited["secret"], revoked["secret"])


async def _rows(url: str, since: datetime, asked: list[Asked]) -> tuple[list[Row], float]:
    """All rows since then, once those that are owed are there or long enough was waited; and how long that was."""
    owed = {identity for one in asked for identity in one.ids}
    began = time.monotonic()
    connection = await asyncpg.connect(url)
    try:
        while True:
            found = await connection.fetch('select request_id, "user", status from queries where at >= $1', since)
            rows = [Row(each["request_id"], each["user"] or "", each["status"]) for each in found]
            waited = time.monotonic() - began
            complete = owed <= {row.request_id for row in rows}
            # (Of a client that left the row comes a moment later.)
            if (complete and waited > SETTLE_SECONDS) or waited > CATCH_UP_SECONDS:
                return rows, waited
            await asyncio.sleep(0.5)
    finally:
        await connection.close()


def report(loaded: Loaded, clients: int, by_itself: list[Spent]) -> None:
    """Print it all."""
    compared = compare(loaded.traffic.asked, loaded.rows)
    _report_load(loaded, clients)
    _report_rows(compared, loaded.traffic.broken)
    _report_growth(loaded.watched)
    _report_work(loaded.work, by_itself)


def _report_load(loaded: Loaded, clients: int) -> None:
    busy = loaded.watched.busy or [0.0]
    answered = [one for one in loaded.traffic.asked if one.known]
    statuses = Counter(one.told for one in answered)
    show(
        f"{clients} clients, closed loop",
        ["seconds", "requests answered", "a second", "told", "cores busy, mean / p10", "last row after, s"],
        [
            [
                f"{loaded.seconds:.0f}",
                f"{len(answered)}",
                f"{len(answered) / loaded.seconds:.1f}",
                ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
                f"{sum(busy) / len(busy):.0f} % / {percentile(busy, 0.1):.0f} %",
                f"{loaded.caught_up:.1f}",
            ]
        ],
    )


def _report_rows(compared: Compared, broken: list[str]) -> None:
    columns = ["kind", "asked", "answered", "rows owed", "rows", "missing", "twice", "otherwise", "told"]
    lines = []
    for kind, tally in sorted(compared.kinds.items()):
        figures = (
            tally.asked,
            tally.answered,
            tally.owed,
            tally.rows,
            tally.missing,
            tally.twice,
            tally.otherwise,
        )
        told = ", ".join(f"{status}: {count}" for status, count in sorted(tally.told.items()))
        lines.append([kind, *map(str, figures), told])
    sums = [str(sum(int(line[place]) for line in lines)) for place in range(1, 8)]
    show("The query log beside what clients saw", columns, [*lines, ["all", *sums, ""]])
    console.print(
        f"Asked anew by the cache: {compared.anew} rows. Of nobody: {len(compared.strangers)} rows. "
        f"Answers that broke off: {len(broken)}. Exactly what was answered: {'yes' if compared.exact else 'NO'}."
    )
    for what, faults in (("wrong", compared.wrong), ("of nobody", compared.strangers), ("broke off", broken)):
        for fault in faults[:SHOWN]:
            console.print(f"{what}: {fault}")
        if len(faults) > SHOWN:
            console.print(f"{what}: … and {len(faults) - SHOWN} more")


def _report_growth(watched: Watched) -> None:
    lines, grown = [], []
    for name, one in sorted(watched.series.items()):
        fit = growth(one.seconds, one.mib)
        if fit is None:
            continue
        files = growth(one.seconds, one.files)
        assert files is not None
        lines.append(
            [
                name,
                f"{fit.first:.1f}",
                f"{fit.last:.1f}",
                f"{fit.slope:+.2f}",
                f"{fit.late_slope:+.2f}",
                f"{files.first:.0f} → {files.last:.0f}",
                "yes" if fit.grown else "no",
            ]
        )
        grown += [name] if fit.grown else []
    if not lines:
        console.print("Growth is told of loads of more than a minute.")
        return
    columns = ["process", "MiB at 1 min", "at the end", "MiB/min", "2nd half", "open files", "grows"]
    show("Resident memory after the first minute (Theil–Sen)", columns, lines)
    console.print(
        f"Growth is a slope that adds up to more than {ALLOWED_MIB:g} MiB and {ALLOWED_SHARE:.0%} of what was "
        f"there: {', '.join(grown) or 'nobody'}. (PostgreSQL: its processes' own memory, without what they share.)"
    )


def _report_work(work: dict[str, Histogram], by_itself: list[Spent]) -> None:
    lines = []
    for clock, told in CLOCKS.items():
        one, times = work[clock], [getattr(spent, clock) for spent in by_itself]
        within = sum(seconds <= BOUND_SECONDS for seconds in times) / len(times)
        under, alone_ = ([f"{1e3 * of(q):.2f}" for q in (0.5, 0.99)] for of in (one.quantile, _quantiles(times)))
        lines.append([f"under this load, {told}", f"{one.count}", *under, f"{one.within(BOUND_SECONDS):.2%}"])
        lines.append([f"alone, {told}", f"{len(times)}", *alone_, f"{within:.2%}"])
    columns = ["", "requests", "p50, ms", "p99, ms", f"at most {1e3 * BOUND_SECONDS:g} ms"]
    show("Ledger work on the request's path", columns, lines)


def _quantiles(times: list[float]) -> Callable[[float], float]:
    return lambda share: percentile(times, share)
