import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.fleet import (
    ONE,
    PARTS,
    TREE,
    Mix,
    Outcome,
    Simulation,
    Workload,
    full_at,
    fullest,
    mix_of,
    seconds_per_request,
    sized,
)
from benchmarks.fleet_recording import part_of
from benchmarks.fleet_replica import Curve, Job, Replica, Speeds
from benchmarks.service_times import RECORDED, PartTimes, ServiceTimes, VariantTimes, load_times
from configs.document import ConfigError

FREE = {"hit": 0.0, "question": 0.0, "turn": 0.0, "token": 0.0, "kept": 0.0}


def variant(**changes: Any) -> VariantTimes:
    """Prompts at 1,000 tokens a second, answers at 50; eight answers at once take twice as long each."""
    given = {
        "parallel": 8,
        "sequences": 16,
        "kv_tokens": 16384,
        "fresh": {100: 0.1, 1000: 1.0},
        "reused": {100: 0.01, 1000: 0.02},
        "together": {1: 1.0, 8: 8.0},
        "step": {1: 0.02, 8: 0.04},
    }
    return VariantTimes.model_validate({**given, **changes})


def recording(variants: int = 1, tree: dict[int, float] | None = None, **parts: PartTimes) -> ServiceTimes:
    free = PartTimes(**FREE)
    return ServiceTimes(
        machine="a test",
        disturbance="none",
        command="none",
        date="2025-01-01",
        profile="cpu",
        variants={f"v{number}": variant() for number in range(variants)},
        parts={part: parts.get(part, free) for part in PARTS},
        prefix_tree=tree,
    )


def play(times: ServiceTimes, nodes: int = 3, **options: Any) -> Outcome:
    return Simulation(times, nodes, **{"requests": 3000, **options}).play()


# -- the whole fleet ---------------------------------------------------------------------------------


def test_everything_that_arrives_is_done() -> None:
    heavy = PartTimes(hit=5, question=5, turn=5, token=0.5, kept=1)
    for policy in ("random", "power of two", "prefix-aware"):
        outcome = play(recording(2, Gateway=heavy, SemanticCache=heavy, Redis=heavy), policy=policy)
        assert outcome.finished == outcome.requests == 3000


def test_littles_law_holds_in_the_replicas() -> None:
    outcome = play(recording(2), workload=Workload(repeated=0.0))
    rate = outcome.finished / outcome.seconds
    assert outcome.active == pytest.approx(rate * outcome.stay, rel=1e-6)


def test_below_saturation_what_is_done_is_what_is_offered() -> None:
    outcome = play(recording(2), nodes=10, requests=20_000)
    assert outcome.done == pytest.approx(outcome.offered, rel=0.05)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    times = recording(2, Router=PartTimes(hit=1, question=2, turn=2, token=0.1, kept=0))
    assert play(times, seed=7) == play(times, seed=7)
    assert play(times, seed=7).first_p50 != play(times, seed=8).first_p50


def test_prefix_aware_routing_reuses_more_than_chance() -> None:
    reuse = {
        policy: play(recording(), nodes=10, policy=policy, requests=5000).reuse
        for policy in ("random", "power of two", "prefix-aware")
    }
    assert reuse["prefix-aware"] > 2 * reuse["random"]
    assert reuse["prefix-aware"] > 2 * reuse["power of two"]


def test_power_of_two_waits_less_than_chance() -> None:
    firsts = {
        policy: play(recording(), nodes=10, policy=policy, requests=10_000, workload=Workload(load=0.9)).first_p95
        for policy in ("random", "power of two")
    }
    assert firsts["power of two"] < firsts["random"]


def test_more_nodes_bring_proportionally_more_requests() -> None:
    assert play(recording(), nodes=10).offered == pytest.approx(10 * play(recording(), nodes=1).offered)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no policy 'roulette'; there are random"):
        Simulation(recording(), 1, policy="roulette")


# -- what breaks -------------------------------------------------------------------------------------


def test_a_saturated_router_is_named_with_where_it_is_full() -> None:
    slow = PartTimes(hit=50, question=50, turn=50, token=0, kept=0)
    times = recording(Router=slow)
    outcome = play(times, nodes=50)
    assert fullest(outcome) == "Router"
    assert outcome.utilization["Router"] > 1
    assert outcome.done < outcome.offered
    assert outcome.waits_p95["Router"] > 100 * outcome.waits_p95["Gateway"]
    rates = full_at(times, mix_of(Workload()), ONE)
    assert rates["Router"] == pytest.approx(20)  # 50 ms each
    assert outcome.offered / rates["Router"] == pytest.approx(outcome.utilization["Router"], rel=0.1)
    assert rates["Gateway"] == math.inf


def test_a_composition_for_the_load_is_not_saturated() -> None:
    slow = PartTimes(hit=50, question=50, turn=50, token=0, kept=0)
    times = recording(Router=slow)
    plan = Simulation(times, 10)
    composition = sized(times, plan.mix, plan.rate)
    assert composition["Router"] == math.ceil(plan.rate * 0.05 / 0.6)
    assert composition["Gateway"] == 1
    outcome = play(times, nodes=10, composition=composition)
    assert outcome.utilization["Router"] < 0.7
    assert outcome.waits_p95["Router"] < 0.5


def test_shards_of_redis_do_not_share_vector_searches() -> None:
    times = recording(Redis=PartTimes(hit=0, question=20, turn=0, token=0, kept=0))
    alone, shared = (play(times, composition={**ONE, "Redis": shards}) for shards in (1, 4))
    assert shared.utilization["Redis"] == pytest.approx(alone.utilization["Redis"], rel=0.15)
    mix = mix_of(Workload())
    assert full_at(times, mix, {**ONE, "Redis": 4}) == full_at(times, mix, ONE)


def test_shards_of_redis_do_share_exact_lookups() -> None:
    times = recording(Redis=PartTimes(hit=20, question=20, turn=20, token=0, kept=0))
    alone, shared = (play(times, composition={**ONE, "Redis": shards}) for shards in (1, 4))
    assert shared.utilization["Redis"] == pytest.approx(alone.utilization["Redis"] / 4, rel=0.15)


def test_the_prefix_tree_is_asked_where_prefixes_count() -> None:
    times = recording(tree={1: 0.1, 1000: 1.0})
    assert TREE not in play(times).utilization
    assert play(times, policy="prefix-aware").utilization[TREE] > 0


def test_work_is_what_the_mix_says() -> None:
    times = recording(Gateway=PartTimes(hit=1, question=2, turn=3, token=0.5, kept=4))
    mix = Mix(hit=0.1, question=0.4, turn=0.5, prompt=100, answer=10)
    assert seconds_per_request(times, mix)["Gateway"] == pytest.approx(
        (0.1 * 1 + 0.4 * 2 + 0.5 * 3 + 0.9 * 10 * 0.5) / 1e3
    )


def test_the_simulation_does_the_work_that_the_mix_says() -> None:
    heavy = PartTimes(hit=1, question=8, turn=2, token=0.1, kept=1)
    times = recording(**dict.fromkeys(PARTS, heavy))
    # Few clients: conversations that are not at their end when the run is would make questions more frequent.
    plan = Simulation(times, 10, workload=Workload(clients_per_node=3), requests=15_000)
    outcome = plan.play()
    for part, rate in full_at(times, plan.mix, ONE).items():
        assert outcome.utilization[part] == pytest.approx(outcome.offered / rate, rel=0.1), part


def test_the_mix_follows_from_the_workload() -> None:
    mix = mix_of(Workload(turns=4.0, repeated=0.2, answer_tokens=50.0))
    assert mix.hit + mix.question + mix.turn == pytest.approx(1)
    assert mix.turn / mix.question == pytest.approx(3, rel=0.1)
    assert mix.hit / mix.question == pytest.approx(0.25, rel=0.1)
    assert mix.answer == pytest.approx(50, rel=0.05)


# -- one replica -------------------------------------------------------------------------------------


def erlang_c(servers: int, offered: float) -> float:
    """The probability of waiting in an M/M/c queue (Erlang, 1917)."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


def test_one_node_agrees_with_an_m_m_c_queue() -> None:
    """A replica whose slots do not slow each other, with almost no prompt, is an M/M/c queue: answers are
    geometric, which is nearly exponential."""
    prompts = {1: 1e-5, 1000: 1e-2}
    quick = {"fresh": prompts, "reused": prompts, "together": {1: 1.0, 4: 1.0}}
    times = recording().model_copy(
        update={"variants": {"v0": variant(parallel=4, **quick, step={1: 0.02, 4: 0.02})}}
    )
    # Single questions of many clients.
    workload = Workload(load=0.8, turns=1.0, repeated=0.0, answer_tokens=100.0, clients_per_node=1000)
    simulation = Simulation(times, 1, workload=workload, requests=40_000, seed=3)
    outcome = simulation.play()
    service = (simulation.mix.answer - 1) * 0.02
    offered = simulation.rate * service
    wait = erlang_c(4, offered) * service / (4 - offered)
    assert outcome.stay == pytest.approx(service + wait, rel=0.06)
    assert outcome.active == pytest.approx(simulation.rate * outcome.stay, rel=0.03)


def finished_at(replica: Replica, done: Callable[[Job], None] = lambda job: None) -> list[float]:
    times = []
    while (due := replica.due()) is not None:
        _, finished = replica.advance(due)
        for job in finished:
            done(job)
            times.append(due)
    return times


def test_answers_slow_each_other_as_recorded() -> None:
    speeds = Speeds(variant())
    for answers, step in ((1, 0.02), (8, 0.04)):
        replica = Replica(speeds)
        for key in range(answers):
            replica.enter(Job(key, 100, 1001), 0.0)
        prompts = 0.1 * answers
        assert finished_at(replica) == pytest.approx([prompts + 1000 * step] * answers)


def test_a_prompt_slows_answers_and_is_read_in_chunks_beside_them() -> None:
    speeds = Speeds(variant())
    # A step beside one answer: 128 tokens of prompt (128 ms) and one token (20 ms).
    assert speeds.prompt_speed[1][1] == pytest.approx(0.128 / 0.148)
    assert speeds.token_speed[1][1] == pytest.approx(1 / 0.148)
    assert speeds.prompt_speed[1][0] == 1


def test_a_replica_runs_as_many_as_its_slots() -> None:
    replica = Replica(Speeds(variant(parallel=2)))
    for key in range(3):
        replica.enter(Job(key, 100, 11), 0.0)
    assert (replica.load, len(replica.waiting)) == (3, 1)
    times = finished_at(replica)
    assert len(times) == 3
    assert times[2] > times[1]


def test_a_conversation_reuses_what_its_replica_holds_until_others_take_the_room() -> None:
    replica = Replica(Speeds(variant(parallel=1, sequences=2)))
    reused: dict[int, int] = {}

    def ask(key: int, prompt: int, at: float) -> float:
        replica.enter(Job(key, prompt, 10), at)
        return finished_at(replica, lambda job: reused.update({job.key: job.reused}))[-1]

    now = ask(1, 100, 0.0)
    assert reused[1] == 0
    now = ask(1, 150, now)
    assert reused[1] == 110  # the prompt and the answer of the first turn
    for other in (2, 3):
        now = ask(other, 100, now)
    ask(1, 200, now)
    assert reused[1] == 0


def test_a_replica_holds_no_more_tokens_than_its_cache() -> None:
    replica = Replica(Speeds(variant(parallel=1, kv_tokens=300)))
    reused: dict[int, int] = {}
    now = 0.0
    for key, prompt in ((1, 190), (2, 190), (1, 250)):
        replica.enter(Job(key, prompt, 10), now)
        now = finished_at(replica, lambda job: reused.update({job.key: job.reused}))[-1]
    assert reused[1] == 0


def test_a_curve_is_straight_between_and_beyond_its_points() -> None:
    curve = Curve({10: 1.0, 20: 3.0, 40: 4.0})
    assert [curve(x) for x in (10, 15, 20, 30, 60, 5)] == pytest.approx([1, 2, 3, 3.5, 5, 0])


# -- recordings --------------------------------------------------------------------------------------


def test_the_recording_that_comes_with_the_repository_is_whole() -> None:
    times = load_times(RECORDED)
    assert set(times.parts) == set(PARTS)
    assert all(variant.step[8] >= variant.step[1] for variant in times.variants.values())
    assert "record" in times.command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["parts"].pop("Router"), "parts lacks Router"),
        (lambda value: value["parts"].update(Kitchen=FREE), "parts holds Kitchen"),
        (lambda value: value["parts"]["Redis"].update(hit=-1), r"parts.Redis.hit: .* greater than or equal to 0"),
        (lambda value: value["variants"]["v0"].update(fresh={10: 0.1}), "v0.fresh: .* two points at least"),
        (lambda value: value["variants"]["v0"].update(step={2: 0.1, 4: 0.2}), "step must say what one request"),
        (lambda value: value["variants"]["v0"].update(step={1: 0, 4: 0.2}), "take more than 0 seconds"),
        (lambda value: value["variants"]["v0"].update(sequences=4), "sequences must be at least parallel"),
        (lambda value: value.update(variants={}), "variants: .* at least 1 item"),
        (lambda value: value.update(colour="blue"), "colour: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_recording_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    value = recording().model_dump(exclude_none=True)
    change(value)
    path = tmp_path / "times.yaml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(ConfigError, match=message) as refused:
        load_times(path)
    assert f"{path}:" in str(refused.value)


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_times(tmp_path / "none.yaml")


def test_processes_are_told_apart_by_their_command_lines() -> None:
    assert part_of("ray::ServeReplica:groupqwen:Router") == "Router"
    assert part_of("ray::ServeReplica:groupqwen:smollm2-135m") is None
    assert part_of("/x/pginstall18/bin/postgres -D /x/data") == "Ledger"
    assert part_of("postgres: groupqwen groupqwen [local] idle") == "Ledger"
    assert part_of("/x/bin/redis-server unixsocket:/x/redis.sock") == "Redis"
    assert part_of("haproxy -f /x/haproxy.cfg") == "HAProxy"
    assert part_of("python -m something") is None
