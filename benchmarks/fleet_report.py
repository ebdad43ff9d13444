"""Runs the simulation of a fleet at several sizes, and prints what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.fleet import (
    ONE,
    POLICIES,
    TREE,
    Composition,
    Outcome,
    Simulation,
    Workload,
    full_at,
    fullest,
    sized,
)
from benchmarks.machine import console, show
from benchmarks.service_times import PARTS, ServiceTimes

POLICY = "power of two"
"""What Serve does by default."""


def report(
    times: ServiceTimes, sizes: Sequence[int], compare_at: int, workload: Workload, seed: int, faster: float
) -> dict[str, Any]:
    """Simulate, print, and return every number in JSON types."""

    def made(nodes: int, policy: str, composition: Composition) -> Simulation:
        return Simulation(
            times,
            nodes,
            policy=policy,
            composition=composition,
            workload=workload,
            seed=seed,
            faster=faster,
        )

    def scaled(nodes: int) -> Composition:
        plan = made(nodes, POLICY, ONE)
        return sized(times, plan.mix, plan.rate)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def play(nodes: int, policy: str, composition: Composition) -> Outcome:
            simulation = made(nodes, policy, composition)
            task = progress.add_task(f"{nodes} nodes, {policy}", total=simulation.requests)
            outcome = simulation.play(lambda more: progress.advance(task, more))
            progress.remove_task(task)
            return outcome

        ones = [play(nodes, POLICY, ONE) for nodes in sizes]
        many = [play(nodes, POLICY, scaled(nodes)) for nodes in sizes]
        policies = [play(compare_at, policy, scaled(compare_at)) for policy in POLICIES]

    _show_fleet("One process of each shared part", ones)
    _show_parts("One process of each shared part: how full each is, and p95 of waiting for it", ones)
    plan = made(1, POLICY, ONE)
    _say_what_breaks(
        ones, {name: (rate / plan.rate, rate) for name, rate in full_at(times, plan.mix, ONE).items()}
    )
    _show_fleet("As many processes as keep each shared part below 60 %", many)
    _show_composition("The processes that this takes, and how full they are", many)
    _say_what_breaks(many, {})
    _show_policies(f"How a replica is chosen, at {compare_at} nodes", policies)
    console.print(
        f"[dim]Times recorded {times.date} on {times.machine}; {times.disturbance}. Offered: "
        f"{workload.load:.0%} of what the replicas can answer without prefix reuse; answers of "
        f"{workload.answer_tokens:g} tokens; variants {faster:g} times as fast as recorded. Seed {seed}.[/dim]"
    )
    return {
        "times": times.model_dump(mode="json"),
        "workload": workload.__dict__,
        "seed": seed,
        "faster": faster,
        "one_of_each": [outcome.as_dict() for outcome in ones],
        "scaled": [outcome.as_dict() for outcome in many],
        "policies": [outcome.as_dict() for outcome in policies],
    }


def _show_fleet(title: str, outcomes: Sequence[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        part = fullest(outcome)
        grows = outcome.utilization[part] > 1
        first = f"{outcome.first_p50:.2f} / {outcome.first_p95:.2f}"
        rows.append(
            [
                f"{outcome.nodes:,}",
                f"{outcome.offered:,.1f}",
                f"{outcome.done:,.1f}",
                "grows" if grows else first,
                f"{outcome.reuse:.0%}",
                part,
                f"{outcome.utilization[part]:.0%}",
            ]
        )
    columns = ["nodes", "offered, req/s", "done, req/s", "first token p50 / p95, s", "reused", "fullest", "full"]
    show(title, columns, rows)


def _cell(outcome: Outcome, part: str) -> str:
    share = outcome.utilization[part]
    wait = "grows" if share > 1 else f"{1e3 * outcome.waits_p95[part]:.0f} ms"
    return f"{share:.0%}, {wait}"


def _show_parts(title: str, outcomes: Sequence[Outcome]) -> None:
    rows = [[f"{outcome.nodes:,}", *(_cell(outcome, part) for part in PARTS)] for outcome in outcomes]
    show(title, ["nodes", *PARTS], rows)


def _show_composition(title: str, outcomes: Sequence[Outcome]) -> None:
    rows = [
        [
            f"{outcome.nodes:,}",
            *(f"{outcome.composition[part]}: {_cell(outcome, part)}" for part in PARTS),
        ]
        for outcome in outcomes
    ]
    show(title, ["nodes", *PARTS], rows)


def _say_what_breaks(outcomes: Sequence[Outcome], full: Mapping[str, tuple[float, float]]) -> None:
    """`full`: at how many nodes, and requests/s, each part is."""
    broken = next((each for each in outcomes if each.utilization[fullest(each)] > 1), None)
    if broken is None:
        console.print(f"Nothing breaks up to {outcomes[-1].nodes:,} nodes.")
    else:
        console.print(f"[bold]{fullest(broken)}[/bold] breaks first, here at N = {broken.nodes:,}.")
    order = sorted(full.items(), key=lambda item: item[1])
    places = [f"{name} {nodes:,.0f} ({rate:,.0f})" for name, (nodes, rate) in order]
    if places:
        console.print(f"Nodes, and requests/s, at which each is full: {', '.join(places)}.\n")


def _show_policies(title: str, outcomes: Sequence[Outcome]) -> None:
    rows = [
        [
            outcome.policy,
            f"{outcome.reuse:.0%}",
            f"{outcome.first_p50:.2f} / {outcome.first_p95:.2f}",
            f"{outcome.stay:.1f}",
            f"{outcome.active / outcome.nodes:.1f}",
            f"{outcome.utilization[TREE]:.0%}" if TREE in outcome.utilization else "",
        ]
        for outcome in outcomes
    ]
    columns = ["policy", "reused", "first token p50 / p95, s", "in a replica, s", "requests in a node", TREE]
    show(title, columns, rows)
