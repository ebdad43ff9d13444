"""One simulated replica of a variant: continuous batching and a KV cache, from recorded times.

Every step of the engine computes the next token of each running answer, and a chunk of the prompts that are
being read (`deployments/llamacpp/engine.py`). So prompts slow answers down a great deal, and answers slow
prompts down a little. Knows nothing of the way that a request took to get here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.service_times import VariantTimes

CHUNK = 128
"""Prompt tokens in one step, while others are being answered."""

DONE = 1e-6
"""Seconds or tokens that are nothing: far above what adding up times may lose."""


class Curve:
    """A recorded curve, straight between its points, and beyond them as between the last two."""

    def __init__(self, points: Mapping[int, float]) -> None:
        self._x = sorted(points)
        self._y = [points[x] for x in self._x]

    def __call__(self, x: float) -> float:
        at = min(max(bisect_left(self._x, x), 1), len(self._x) - 1)
        x0, x1, y0, y1 = self._x[at - 1], self._x[at], self._y[at - 1], self._y[at]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


class Speeds:
    """What a variant's recording says of any number of prompts and answers at once.

    `faster`: this many times the recorded speed.
    """

    def __init__(self, times: VariantTimes, faster: float = 1.0) -> None:
        self.times = times
        self._fresh, self._reused = Curve(times.fresh), Curve(times.reused)
        self._faster = faster
        together, step = Curve(times.together), Curve(times.step)
        numbers = range(times.parallel + 1)
        longest = max(times.fresh)
        chunk = CHUNK * times.fresh[longest] / longest / faster
        self.step = [step(max(1, d)) / faster for d in numbers]
        """Seconds from token to token with d answers at once, no prompt being read."""
        slower = [max(1.0, together(max(1, p)) / together(1)) for p in numbers]
        share = [1.0 if d == 0 else chunk / (chunk + self.step[d]) for d in numbers]
        self.prompt_speed = [[share[d] / slower[p] for d in numbers] for p in numbers]
        """[p][d]: seconds' worth of a prompt that are read in a second, by each of p prompts beside d answers."""
        self.token_speed = [[1 / (self.step[d] + (chunk if p else 0.0)) for d in numbers] for p in numbers]
        """[p][d]: tokens a second of each of d answers beside p prompts."""

    def prompt_seconds(self, prompt: int, reused: int) -> float:
        """Time to read a prompt of which `reused` tokens are in the KV cache, alone."""
        seconds = self._fresh(max(1, prompt - reused))
        if reused:
            seconds = max(seconds, self._reused(prompt))
        return max(1e-4, seconds) / self._faster

    def capacity(self, prompt: float, tokens: float) -> float:
        """Requests a second of one replica that is full, no prompt reused."""
        work = self.prompt_seconds(round(prompt), 0) * self._slower_all / self.times.parallel
        return 1 / (work + tokens * self.step[self.times.parallel] / self.times.parallel)

    @property
    def _slower_all(self) -> float:
        """How many times longer a full house of prompts takes than one."""
        return 1 / self.prompt_speed[self.times.parallel][0]


@dataclass(slots=True)
class Job:
    """A request in a replica. `left`: seconds of prompt, then tokens of answer."""

    key: int
    prompt: int
    tokens: int
    left: float = 0.0
    reused: int = 0


class Replica:
    """Call `enter` and `advance` with times that never go back; `due` says when to call `advance` next."""

    __slots__ = ("_decoding", "_held", "_now", "_reading", "_speeds", "_used", "present", "version", "waiting")

    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self._now = 0.0
        self._reading: list[Job] = []
        self._decoding: list[Job] = []
        self.waiting: deque[Job] = deque()
        self._held: OrderedDict[int, int] = OrderedDict()
        self._used = 0
        self.present = 0.0
        """Requests × seconds that they have been here, so far."""

        self.version = 0
        """Grows with every change: an event that was planned before is void."""

    @property
    def load(self) -> int:
        """Requests that run or wait, which is what Serve's request router compares."""
        return len(self._reading) + len(self._decoding) + len(self.waiting)

    def enter(self, job: Job, now: float) -> None:
        """A request comes."""
        self._pass_time(now)
        self.waiting.append(job)
        self._admit()
        self.version += 1

    def advance(self, now: float) -> tuple[list[Job], list[Job]]:
        """Those that have their first token at this moment, and those that are complete."""
        self._pass_time(now)
        read = [job for job in self._reading if job.left <= DONE]
        finished = [job for job in self._decoding if job.left <= DONE]
        if read:
            self._reading = [job for job in self._reading if job.left > DONE]
            for job in read:
                job.left = job.tokens - 1.0
                (self._decoding if job.left > DONE else finished).append(job)
        if finished:
            self._decoding = [job for job in self._decoding if job.left > DONE]
            for job in finished:
                self._held[job.key] = job.prompt + job.tokens
        self._admit()
        self.version += 1
        return read, finished

    def due(self) -> float | None:
        """When the next first or last token comes, if nobody enters before."""
        p, d = len(self._reading), len(self._decoding)
        soonest = float("inf")
        if p:
            soonest = min(job.left for job in self._reading) / self._speeds.prompt_speed[p][d]
        if d:
            soonest = min(soonest, min(job.left for job in self._decoding) / self._speeds.token_speed[p][d])
        return None if soonest == float("inf") else self._now + max(soonest, 0.0)

    def _pass_time(self, now: float) -> None:
        seconds = now - self._now
        self._now = now
        if seconds <= 0:
            return
        self.present += seconds * self.load
        p, d = len(self._reading), len(self._decoding)
        if p:
            read = seconds * self._speeds.prompt_speed[p][d]
            for job in self._reading:
                job.left -= read
        if d:
            tokens = seconds * self._speeds.token_speed[p][d]
            for job in self._decoding:
                job.left -= tokens

    def _admit(self) -> None:
        times = self._speeds.times
        while self.waiting and len(self._reading) + len(self._decoding) < times.parallel:
            job = self.waiting.popleft()
            held = self._held.pop(job.key, 0)
            # At least the last token is computed: its logits start the answer.
            job.reused = min(held, job.prompt - 1)
            job.left = self._speeds.prompt_seconds(job.prompt, job.reused)
            self._used += job.prompt + job.tokens - held
            self._reading.append(job)
        room = times.sequences - len(self._reading) - len(self._decoding)
        while self._held and (len(self._held) > room or self._used > times.kv_tokens):
            self._used -= self._held.popitem(last=False)[1]
