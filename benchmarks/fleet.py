"""A fleet of nodes behind one endpoint, simulated: what it answers, and which shared part is full first.

A discrete-event simulation. Replicas compute by recorded times (`benchmarks/fleet_replica.py`); what all nodes
share (Gateway, Router, …) is a queue for each of its processes, first come, first served, with recorded CPU times
as the mean of an exponential distribution. Pure: the same seed gives the same numbers on any machine. Knows
nothing of how times are recorded.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.fleet_replica import Curve, Job, Replica, Speeds
from benchmarks.load import percentile
from benchmarks.service_times import PARTS, STREAMED, TOUCHED, ServiceTimes

NODES = (1, 3, 10, 30, 100, 300, 1000)
POLICIES = ("random", "power of two", "prefix-aware")
TREE = "prefix tree"
"""Ray's prefix-aware request router asks one actor for each deployment, whoever asks."""

MOST_REQUESTS, FEWEST_REQUESTS, REQUESTS_PER_NODE = 200_000, 10_000, 200
WARM_UP = 0.25
"""This share of the requests fills caches and queues, and is not reported."""

BUSIER = 4
"""Prefix-aware: who holds the prefix is passed over with more than so many requests more than another replica."""

FULL = 0.6
"""How full a part is at most in a composition that was made for a load."""

PIECE = 16
"""Tokens of an answer that pass the shared parts as one piece of work, to spare events."""


@dataclass(frozen=True)
class Workload:
    """Who asks what. Assumptions, not measurements; token counts are means of geometric distributions."""

    load: float = 0.7
    """Of the requests a second that all replicas could answer if no prefix was ever reused."""

    clients_per_node: int = 30
    """Client n of all asks 1/n as often as the first (Zipf). Each has as many conversations as it needs."""

    turns: float = 4.0
    question_tokens: float = 40.0
    answer_tokens: float = 96.0
    longest: int = 2048
    """Tokens after which a conversation is not continued."""

    repeated: float = 0.1
    """Share of first questions that are exact cache hits."""

    def draw(self, mean: float, rng: random.Random) -> int:
        """Geometric, 1 or more."""
        return 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / mean)) if mean > 1 else 1


@dataclass(frozen=True)
class Mix:
    """What a workload consists of: shares of all requests, and mean tokens of those that a variant answers."""

    hit: float
    question: float
    turn: float
    prompt: float
    answer: float


def mix_of(workload: Workload, conversations: int = 20_000) -> Mix:
    """By drawing conversations as the simulation does."""
    rng = random.Random(0)
    hits = turns = prompts = answers = 0
    for _ in range(conversations):
        if rng.random() < workload.repeated:
            hits += 1
            continue
        conversation = Conversation(0, 0, workload.draw(workload.turns, rng))
        while conversation.left:
            prompt, answer = conversation.next_turn(workload, rng)
            turns, prompts, answers = turns + 1, prompts + prompt, answers + answer
    questions, requests = conversations - hits, turns + hits
    return Mix(
        hits / requests,
        questions / requests,
        (turns - questions) / requests,
        prompts / max(1, turns),
        answers / max(1, turns),
    )


@dataclass(slots=True)
class Conversation:
    """Turns that grow: each prompt holds all that was said before. `replica` answered the last one."""

    key: int
    variant: int
    left: int
    tokens: int = 0
    replica: int = -1

    def next_turn(self, workload: Workload, rng: random.Random) -> tuple[int, int]:
        """Tokens of the next prompt, and of its answer."""
        prompt = self.tokens + workload.draw(workload.question_tokens, rng)
        answer = workload.draw(workload.answer_tokens, rng)
        self.tokens = prompt + answer
        self.left = self.left - 1 if self.tokens < workload.longest else 0
        return prompt, answer


Composition = Mapping[str, int]
"""How many processes (Redis: shards; Ledger: partitions) each shared part has."""

ONE: Composition = dict.fromkeys(PARTS, 1)


def seconds_per_request(times: ServiceTimes, mix: Mix) -> dict[str, float]:
    """CPU seconds of each shared part for the average request."""
    how_often = {
        "hit": mix.hit,
        "question": mix.question,
        "turn": mix.turn,
        "token": (mix.question + mix.turn) * mix.answer,
        "kept": mix.question,
    }
    return {
        name: sum(how_often[kind] * getattr(part, kind) for kind in TOUCHED if name in TOUCHED[kind]) / 1e3
        for name, part in times.parts.items()
    }


def full_at(times: ServiceTimes, mix: Mix, composition: Composition) -> dict[str, float]:
    """Requests/s at which each part is full. A vector search goes to every shard of Redis, all else to one."""
    seconds = seconds_per_request(times, mix)
    searching = mix.question * _search_ms(times) / 1e3
    shared = {name: seconds[name] / composition[name] for name in PARTS}
    shared["Redis"] = (seconds["Redis"] - searching) / composition["Redis"] + searching
    return {name: 1 / each if each else math.inf for name, each in shared.items()}


def sized(times: ServiceTimes, mix: Mix, rate: float) -> Composition:
    """As many of each part as keep it below `FULL` at `rate` requests/s. Redis is counted without its vector
    searches, which go to every shard and so do not become fewer."""
    busy = {name: rate * seconds for name, seconds in seconds_per_request(times, mix).items()}
    searching = rate * mix.question * _search_ms(times) / 1e3
    made = {name: max(1, math.ceil(busy[name] / FULL)) for name in PARTS}
    # Where searches alone fill it, shards are of no use; some are made for the rest, and the report says so.
    made["Redis"] = max(1, math.ceil((busy["Redis"] - searching) / max(0.1, FULL - searching)))
    return made


def _search_ms(times: ServiceTimes) -> float:
    redis = times.parts["Redis"]
    return max(0.0, redis.question - redis.hit)


@dataclass(frozen=True)
class Outcome:
    """One run. Seconds and requests/s; what is not counted is the warm-up, and the time to the first token of
    cache hits. `utilization`: work that came for each process of a part in a second of CPU time; above 1 its queue
    grows for as long as the load lasts, and waits depend on how long that is."""

    nodes: int
    policy: str
    composition: dict[str, int]
    requests: int
    finished: int
    offered: float
    done: float
    first_p50: float
    first_p95: float
    reuse: float
    waits_p95: dict[str, float] = field(default_factory=dict)
    utilization: dict[str, float] = field(default_factory=dict)
    active: float = 0.0
    """Requests in the replicas, on average over the run."""
    stay: float = 0.0
    """Seconds that a request is in a replica, on average."""

    seconds: float = 0.0
    """From the first arrival to the last answer."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fullest(outcome: Outcome) -> str:
    """The part that is full first."""
    return max(outcome.utilization, key=lambda name: outcome.utilization[name])


class Part:
    """The processes of one shared part. Times never go back from call to call."""

    __slots__ = ("_free", "_rng", "demanded", "waits")

    def __init__(self, processes: int, rng: random.Random) -> None:
        self._free = [0.0] * processes
        self._rng = rng
        self.demanded = 0.0
        self.waits: list[float] = []

    @property
    def processes(self) -> int:
        return len(self._free)

    def choose(self) -> int:
        """The less busy of two processes, as HAProxy and Serve do it roughly."""
        n = len(self._free)
        if n == 1:
            return 0
        a, b = int(self._rng.random() * n), int(self._rng.random() * n)
        return a if self._free[a] <= self._free[b] else b

    def shard(self) -> int:
        """Any of them: a hash decides."""
        return int(self._rng.random() * len(self._free))

    def take(self, now: float, mean: float, process: int) -> tuple[float, float]:
        """Queue work of `mean` seconds: when it is done, and how long it waits before it begins."""
        seconds = self._rng.expovariate(1.0) * mean
        begins = max(now, self._free[process])
        self._free[process] = begins + seconds
        self.demanded += seconds
        return begins + seconds, begins - now

    def all(self, now: float, mean: float) -> float:
        """Queue work at every process: when the last is done."""
        return max(self.take(now, mean, process)[0] for process in range(self.processes))


@dataclass(slots=True)
class Request:
    """On its way. `ways`: which process of HAProxy, Gateway and Router it goes through. `pending`: what the first
    token still waits for."""

    arrived: float
    counted: bool
    conversation: Conversation | None
    client: int = 0
    prompt: int = 0
    tokens: int = 0
    first_turn: bool = False
    replica: int = -1
    pending: int = 1
    entered: float = 0.0
    ways: list[int] = field(default_factory=list)


Progress = Callable[[int], None]


class Simulation:
    """One fleet under one load."""

    def __init__(
        self,
        times: ServiceTimes,
        nodes: int,
        *,
        policy: str = "power of two",
        composition: Composition = ONE,
        workload: Workload | None = None,
        seed: int = 0,
        requests: int | None = None,
        faster: float = 1.0,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}; there are {', '.join(POLICIES)}")
        self._nodes, self._policy = nodes, policy
        self._workload = workload or Workload()
        self._composition = dict(composition)
        self.requests = requests or min(MOST_REQUESTS, max(FEWEST_REQUESTS, REQUESTS_PER_NODE * nodes))
        self._rng = random.Random(seed)
        self._numpy = np.random.default_rng(seed)
        names = list(times.variants)
        speeds = [Speeds(times.variants[name], faster) for name in names]
        self._shares = shares(len(names))
        self._replicas = [[Replica(speed) for _ in range(nodes)] for speed in speeds]
        self.mix = mix_of(self._workload)
        self.rate = self._workload.load * nodes * node_capacity(speeds, self._shares, self.mix)
        self._parts = {name: Part(self._composition[name], self._rng) for name in PARTS}
        if policy == "prefix-aware" and times.prefix_tree:
            self._parts[TREE] = Part(len(names), self._rng)
            self._tree_seconds = Curve(times.prefix_tree)(nodes) / 1e3
        self._costs = {
            kind: {name: getattr(part, kind) / 1e3 for name, part in times.parts.items()} for kind in TOUCHED
        }
        self._search_seconds = _search_ms(times) / 1e3
        self._steps = [speed.step[speed.times.parallel] for speed in speeds]
        self._events: list[tuple[float, int, Callable[[Any, Any], None], Any, Any]] = []
        self._numbers, self._keys = itertools.count(), itertools.count()
        self._now = 0.0
        self._idle: dict[int, deque[Conversation]] = {}
        self._running: dict[int, Request] = {}
        self._firsts: list[float] = []
        self._prompted = self._reused = self._finished = self._done_in_time = 0
        self._stayed, self._answered = 0.0, 0

    # -- the run -------------------------------------------------------------------------------------

    def play(self, progress: Progress | None = None) -> Outcome:
        """Run until the last request is answered. `progress` hears how many requests more have come."""
        arrivals = np.cumsum(self._numpy.exponential(1 / self.rate, self.requests)).tolist()
        clients = zipf(self._workload.clients_per_node * self._nodes, self.requests, self._numpy)
        self._counted_from, self._until = arrivals[int(WARM_UP * self.requests)], arrivals[-1]
        events, pop = self._events, heapq.heappop
        for number, (at, client) in enumerate(zip(arrivals, clients, strict=True)):
            while events and events[0][0] <= at:
                self._now, _, event, first, second = pop(events)
                event(first, second)
            self._now = at
            self._arrive(client)
            if progress is not None and number % 1000 == 999:
                progress(1000)
        while events:
            self._now, _, event, first, second = pop(events)
            event(first, second)
        return self._outcome()

    def _later(self, at: float, event: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), event, first, second))

    def _arrive(self, client: int) -> None:
        idle = self._idle.get(client)
        counted = self._now >= self._counted_from
        if idle:
            conversation, first = idle.popleft(), False
        elif self._rng.random() < self._workload.repeated:
            self._pass(Request(self._now, counted, None), _WAY_OF_A_HIT)
            return
        else:
            variant = self._rng.choices(range(len(self._shares)), self._shares)[0]
            turns = self._workload.draw(self._workload.turns, self._rng)
            conversation, first = Conversation(next(self._keys), variant, turns), True
        request = Request(self._now, counted, conversation, client, first_turn=first, pending=1 + first)
        request.prompt, request.tokens = conversation.next_turn(self._workload, self._rng)
        self._running[conversation.key] = request
        self._pass(request, _WAY_IN)

    # -- the shared parts ----------------------------------------------------------------------------

    def _pass(self, request: Request, way: Sequence[str]) -> None:
        """Through the next part of the way, and then through those that are left."""
        if not way:
            self._enter(request)
            return
        name = way[0]
        part = self._parts[name]
        if name == "Redis":
            # One GET; what a question takes beyond it is its vector search.
            kind = _kind(request)
            process, cost = part.shard(), self._costs["hit" if kind == "question" else kind][name]
        else:
            process, cost = part.choose(), self._costs[_kind(request)][name]
        if name in STREAMED:
            request.ways.append(process)
        done, wait = part.take(self._now, cost, process)
        if request.counted:
            part.waits.append(wait)
        self._later(done, self._pass, request, way[1:])

    def _enter(self, request: Request) -> None:
        """Behind the Router: into a replica, and at the same time to the cache's second look."""
        conversation = request.conversation
        if conversation is None:
            self._end(request)
            return
        if TREE in self._parts:
            tree = self._parts[TREE]
            done, wait = tree.take(self._now, self._tree_seconds, conversation.variant)
            if request.counted:
                tree.waits.append(wait)
            self._later(done, self._start, request, conversation)
        else:
            self._start(request, conversation)
        if request.first_turn:
            cache = self._parts["SemanticCache"]
            done, wait = cache.take(self._now, self._costs["question"]["SemanticCache"], cache.choose())
            if request.counted:
                cache.waits.append(wait)
            self._later(done, self._search, request, None)

    def _search(self, request: Request, _: None) -> None:
        """A vector search asks every shard."""
        self._later(self._parts["Redis"].all(self._now, self._search_seconds), self._ready, request, None)

    def _ready(self, request: Request, _: None) -> None:
        request.pending -= 1
        if not request.pending:
            self._out(request, len(STREAMED) - 1)

    def _out(self, request: Request, at: int) -> None:
        """The first token on its way back, and the pieces of the answer that will follow it."""
        if at >= 0:
            name = STREAMED[at]
            done, _ = self._parts[name].take(self._now, self._costs["token"][name], request.ways[at])
            self._later(done, self._out, request, at - 1)
            return
        if request.counted:
            self._firsts.append(self._now - request.arrived)
        conversation = request.conversation
        assert conversation is not None
        pieces = math.ceil((request.tokens - 1) / PIECE)
        for number in range(pieces):
            # Where the pieces fall is guessed, from a full replica; how much work they are is not.
            at_token = min(request.tokens - 1, (number + 1) * PIECE)
            size = at_token - number * PIECE
            self._later(self._now + at_token * self._steps[conversation.variant], self._piece, request, size)

    def _piece(self, request: Request, tokens: int) -> None:
        for name, process in zip(STREAMED, request.ways, strict=True):
            self._parts[name].take(self._now, tokens * self._costs["token"][name], process)

    def _end(self, request: Request) -> None:
        """The row of the ledger, and the answer into the cache: nobody waits for them."""
        ledger = self._parts["Ledger"]
        _, wait = ledger.take(self._now, self._costs[_kind(request)]["Ledger"], ledger.shard())
        if request.counted:
            ledger.waits.append(wait)
        if request.first_turn:
            redis = self._parts["Redis"]
            redis.take(self._now, self._costs["kept"]["Redis"], redis.shard())
        self._finished += 1
        if self._counted_from <= self._now <= self._until:
            self._done_in_time += 1

    # -- the replicas --------------------------------------------------------------------------------

    def _start(self, request: Request, conversation: Conversation) -> None:
        replicas = self._replicas[conversation.variant]
        request.replica = conversation.replica = self._choose(replicas, conversation.replica)
        request.entered = self._now
        replica = replicas[request.replica]
        replica.enter(Job(conversation.key, request.prompt, request.tokens), self._now)
        self._plan(replica, conversation.variant)

    def _choose(self, replicas: list[Replica], holder: int) -> int:
        n = len(replicas)
        one = int(self._rng.random() * n)
        if self._policy == "random":
            return one
        other = int(self._rng.random() * n)
        emptier = one if replicas[one].load <= replicas[other].load else other
        if self._policy == "power of two" or holder < 0:
            return emptier
        return holder if replicas[holder].load - replicas[emptier].load <= BUSIER else emptier

    def _plan(self, replica: Replica, variant: int) -> None:
        due = replica.due()
        if due is not None:
            self._later(due, self._advance, replica, (replica.version, variant))

    def _advance(self, replica: Replica, planned: tuple[int, int]) -> None:
        version, variant = planned
        if version != replica.version:
            return
        read, finished = replica.advance(self._now)
        for job in read:
            request = self._running[job.key]
            if request.counted:
                self._prompted += job.prompt
                self._reused += job.reused
            self._ready(request, None)
        for job in finished:
            self._leave(self._running.pop(job.key))
        self._plan(replica, variant)

    def _leave(self, request: Request) -> None:
        conversation = request.conversation
        assert conversation is not None
        self._answered += 1
        self._stayed += self._now - request.entered
        if conversation.left:
            self._idle.setdefault(request.client, deque()).append(conversation)
        self._end(request)

    def _outcome(self) -> Outcome:
        seconds = self._until - self._counted_from
        return Outcome(
            nodes=self._nodes,
            policy=self._policy,
            composition=self._composition,
            requests=self.requests,
            finished=self._finished,
            offered=self.rate,
            done=self._done_in_time / seconds,
            first_p50=percentile(self._firsts, 0.5),
            first_p95=percentile(self._firsts, 0.95),
            reuse=self._reused / max(1, self._prompted),
            waits_p95={name: percentile(part.waits or [0.0], 0.95) for name, part in self._parts.items()},
            utilization={name: part.demanded / part.processes / self._until for name, part in self._parts.items()},
            active=sum(replica.present for group in self._replicas for replica in group) / self._now,
            stay=self._stayed / max(1, self._answered),
            seconds=self._now,
        )


_WAY_OF_A_HIT = (*STREAMED, "Redis")
_WAY_IN = (*STREAMED, "Redis", "Classifier")


def _kind(request: Request) -> str:
    return "hit" if request.conversation is None else "question" if request.first_turn else "turn"


def shares(variants: int) -> list[float]:
    """How the requests fall on the variants, smallest first: the n-th is asked 1/n as often as the first."""
    weights = [1 / n for n in range(1, variants + 1)]
    return [weight / sum(weights) for weight in weights]


def zipf(clients: int, requests: int, rng: np.random.Generator) -> list[int]:
    """Who asks each request."""
    weights = 1 / np.arange(1, clients + 1)
    drawn: list[int] = rng.choice(clients, requests, p=weights / weights.sum()).tolist()
    return drawn


def node_capacity(speeds: Sequence[Speeds], asked: Sequence[float], mix: Mix) -> float:
    """Requests/s at which the first variant of a node is full, cache hits included, no prefix reused."""
    answered = min(
        speed.capacity(mix.prompt, mix.answer) / share for speed, share in zip(speeds, asked, strict=True)
    )
    return answered / (1 - mix.hit)
