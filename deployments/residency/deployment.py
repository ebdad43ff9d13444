"""Residency as a Serve deployment: watches the variants, and carries out the swaps that the machine decides.

The variants keep their own gates, so a request to one that is awake never comes by here. A variant that is
not asks for itself (`wanted`), again and again while someone waits, so that this may die at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve import metrics
from ray.serve.handle import DeploymentHandle

from configs.machine import free_gpu_memory_mb, free_memory_mb
from deployments.contract import ChatError, not_ready
from deployments.metrics import Gauge
from deployments.residency.machine import Footprint, Impossible, Residency, State, Swap
from deployments.serving import deployment
from deployments.timing import within

logger = logging.getLogger("ray.serve")

WATCH_SECONDS = 1.0
STATUS_SECONDS = 2.0
TIGHT = 1.25
"""A load is warned about where less than this many times its footprint is free in the machine."""

LOAD_SECONDS = 300.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 600.0
"""After a load that failed it is not tried again for so long, twice as long each time."""

LENT = "a fine-tuning job has {} MiB of the memory until it ends"

FIRST_LOOK_SECONDS = 60.0
"""So long nothing is swapped after a start, unless every variant has said before how it is: one that has not may
hold memory."""


@deployment
class ResidencyKeeper:
    """The memory budget of one node, MiB, and the variants that share it, of which at most `max_awake` at once.
    `spared`: who does not leave for a training job."""

    def __init__(
        self,
        budget_mb: int,
        max_awake: int | None,
        footprints: Mapping[str, Footprint],
        variants: Mapping[str, DeploymentHandle],
        accelerator: str,
        spared: Collection[str] = (),
    ) -> None:
        self._node = Residency(budget_mb, footprints, max_awake=max_awake, spared=spared)
        self._variants = dict(variants)
        self._accelerator = accelerator
        self._asked: dict[str, int] = {}
        self._heard: set[str] = set()
        self._heard_pin: set[str] = set()
        self._loads: Counter[str] = Counter()
        self._started = time.monotonic()
        self._news = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._swaps = metrics.Counter(
            "groupqwen_residency_swaps", "Variants brought in or sent out.", ("variant", "kind")
        )
        self._used = Gauge("groupqwen_residency_used_mb", "Declared memory of what is in, MiB.")
        self._budget = Gauge("groupqwen_residency_budget_mb", "What all that is in may take, MiB.")
        self._lent = Gauge("groupqwen_residency_lent_mb", "Memory that training jobs have, MiB.")
        self._states = Gauge(
            "groupqwen_residency_state", "1 for the state that a variant is in.", ("variant", "state")
        )
        self._measured = Gauge(
            "groupqwen_residency_measured_mb",
            "Memory that a variant's process takes, MiB: of the machine, of the card.",
            ("variant", "memory"),
        )
        self._running = asyncio.get_running_loop().create_task(self._run())

    # -- asked from outside --------------------------------------------------------------------------

    async def wanted(self, name: str) -> None:
        """Someone waits for this variant. One that has just failed is not tried again at once: each attempt may
        send another out."""
        if time.monotonic() < self._not_before.get(name, 0.0):
            self._variants[name].fail.remote(self._problems.get(name, "it could not be loaded"))
            return
        if self._node.lacks_room(name):
            # Not kept waiting: it is answered by the best that is there.
            self._variants[name].fail.remote(LENT.format(self._node.lent_mb))
            return
        self._node.wanted(name, time.monotonic())
        self._news.set()

    async def lend(self, guest: str, mb: int, seconds: float, has: bool = False) -> dict[str, Any]:
        """Memory for a training job, for so long, unless it is asked for again by then: `free` says whether the
        variants that had it are out by now, `waits_for` what it waits for. `impossible`: why it will not be, as
        things are; `lent_mb`: what other jobs have. `has`: the job runs, and has it."""
        try:
            free = self._knows_all and self._node.lend(guest, mb, time.monotonic() + seconds, has=has)
        except Impossible as impossible:
            lent_mb = self._node.lent_mb
            return {"free": False, "impossible": str(impossible), "waits_for": None, "lent_mb": lent_mb}
        self._news.set()
        waits_for = None if free else self._in_the_way()
        return {"free": free, "impossible": None, "waits_for": waits_for, "lent_mb": self._node.lent_mb}

    def _in_the_way(self) -> str:
        if not self._knows_all:
            return "it is not known yet which variants are in memory"
        return f"still in memory: {', '.join(self._node.in_the_way()) or 'one that is just coming or leaving'}"

    async def give_back(self, guest: str) -> None:
        """A training job has ended: who has left for it comes back."""
        self._node.give_back(guest)
        self._news.set()

    async def load(self, name: str, seconds: float) -> dict[str, Any]:
        """Bring it in, and wait for it. Raises `ChatError` where it does not come in time."""
        until = time.monotonic() + seconds
        self._problems.pop(name, None)
        self._not_before.pop(name, None)
        self._loads[name] += 1
        try:
            while self._node.state(name) is not State.AWAKE:
                if self._node.lacks_room(name):
                    raise not_ready(name, LENT.format(self._node.lent_mb))
                if name in self._problems or time.monotonic() > until:
                    raise not_ready(name, self._problems.get(name, f"it was not in memory within {seconds:g} s"))
                await self.wanted(name)
                await asyncio.sleep(0.1)
        finally:
            self._loads[name] -= 1
        return self.about(name)

    async def unload(self, name: str) -> dict[str, Any]:
        """Send it out as soon as it is idle."""
        self._node.dismiss(name)
        self._news.set()
        return self.about(name)

    async def pin(self, name: str, pinned: bool) -> dict[str, Any]:
        """Keep it once it is there. Raises `ChatError` where nothing else could then come."""
        try:
            self._node.pin(name, pinned)
        except Impossible as impossible:
            raise ChatError(
                str(impossible), status=409, kind="invalid_request_error", code="no_room", param="pinned"
            ) from impossible
        self._heard_pin.add(name)
        self._variants[name].pin.remote(pinned)  # If it does not hear this, it is told again at the next look.
        return self.about(name)

    def about(self, name: str) -> dict[str, Any]:
        """One variant's state and footprint."""
        return {
            "id": name,
            "state": self._node.state(name).value,
            "pinned": self._node.is_pinned(name),
            "declared_memory_mb": self._node.footprint(name).awake_mb,
            "problem": self._problems.get(name),
        }

    # -- the watch -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await within(self._news.wait(), WATCH_SECONDS)
            self._news.clear()
            try:
                await self._look()
                while self._knows_all and (swap := self._node.next_swap(time.monotonic())) is not None:
                    await self._carry_out(swap)
                    await self._look()
            except Exception:
                logger.exception("residency: a round failed")
                self._node.abandon(time.monotonic())
            self._report()

    def _report(self) -> None:
        self._used.set(self._node.used_mb)
        self._budget.set(self._node.budget_mb)
        self._lent.set(self._node.lent_mb)
        for name in self._variants:
            now = self._node.state(name)
            for state in State:
                self._states.set(int(state is now), {"variant": name, "state": state.value})

    @property
    def _knows_all(self) -> bool:
        late = time.monotonic() - self._started > FIRST_LOOK_SECONDS
        return late or self._heard >= self._variants.keys()

    async def health(self) -> dict[str, Any]:
        """What could not be loaded, and why."""
        problem = next(iter(self._problems.values()), None)
        return {
            "ok": not self._running.done(),
            "error": problem,
            "problems": dict(self._problems),
            "used_mb": self._node.used_mb,
            "lent_mb": self._node.lent_mb,
        }

    async def check_health(self) -> None:
        """Serve restarts this when it raises."""
        if self._running.done():
            raise RuntimeError("the watch over the variants has ended")

    async def _status(self, name: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = await within(self._variants[name].status.remote(), STATUS_SECONDS)
            return answer
        except Exception as error:  # Whatever it is (Ray raises gRPC's own errors too): it has not said how it is.
            logger.debug("residency: %s does not say how it is: %r", name, error)
            return None

    async def _look(self) -> None:
        """How each is, how busy, how often it was asked since the last look, and whether anyone still waits."""
        statuses = await asyncio.gather(*(self._status(name) for name in self._variants))
        now = time.monotonic()
        for name, status in zip(self._variants, statuses, strict=True):
            if status is None:
                continue  # Busy, or being restarted: it says so itself once it is back.
            self._agree_on_pin(name, status["pinned"])
            self._heard.add(name)
            for memory, measured in (("machine", "memory_mb"), ("card", "gpu_memory_mb")):
                if measured in status:
                    self._measured.set(status[measured], {"variant": name, "memory": memory})
            asked, before = status["asked"], self._asked.get(name, 0)
            if asked > before:
                self._node.used(name, now, asked - before)
            self._asked[name] = asked
            self._node.busy(name, status["active"] + status["waiting"])
            self._believe(name, status["state"], now)
            if not status["at_the_gate"] and not self._loads[name]:
                self._node.given_up(name)

    def _agree_on_pin(self, name: str, told: bool) -> None:
        """The variants keep their pins for a Residency that is restarted, and it for a variant that is."""
        known = self._node.is_pinned(name)
        if told == known:
            self._heard_pin.add(name)
            return
        if name in self._heard_pin:
            self._variants[name].pin.remote(known)
            return
        self._heard_pin.add(name)
        with suppress(Impossible):  # The budget may have become smaller in between.
            self._node.pin(name, told)

    def _believe(self, name: str, said: str, now: float) -> None:
        """What a variant says of itself holds. (No swap is under way when this is asked.)"""
        known = self._node.state(name)
        if said == known.value:
            return
        if said in ("absent", "asleep"):
            if known is State.AWAKE:
                logger.warning("residency: %s was restarted and is %s now", name, said)
            self._node.gone(name, now, asleep=said == "asleep")
        elif known is not State.AWAKE:
            logger.warning("residency: %s is found to be %s", name, said)
            self._node.adopt(name, State.AWAKE, now)

    async def _carry_out(self, swap: Swap) -> None:
        name = swap.coming
        if name is not None and (objection := self._objection(swap)) is not None:
            self._node.abandon(time.monotonic())
            await self._refuse(name, objection)
            return
        await asyncio.gather(*(self._send_out(leaving, swap.altogether) for leaving in swap.leaving))
        if name is None or self._node.state(name) is not State.LOADING:
            return
        try:
            await within(self._variants[name].load.remote(), LOAD_SECONDS)
        except Exception as error:
            self._node.failed(name, time.monotonic())
            await self._refuse(name, (str(error).strip().splitlines() or [repr(error)])[-1])
            return
        self._problems.pop(name, None)
        self._failures.pop(name, None)
        self._node.came(name, time.monotonic())
        self._swaps.inc(tags={"variant": name, "kind": "in"})

    async def _refuse(self, name: str, problem: str) -> None:
        """Tell who waits for it."""
        logger.error("residency: %s cannot be loaded: %s", name, problem)
        self._problems[name] = problem
        self._failures[name] += 1
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._failures[name] - 1))
        self._not_before[name] = time.monotonic() + pause
        self._variants[name].fail.remote(problem)

    async def _send_out(self, name: str, altogether: bool) -> None:
        # Who is awake goes to sleep where it can; who sleeps already goes altogether.
        awake = self._node.state(name) is State.DRAINING
        asleep = awake and not altogether and self._node.footprint(name).asleep_mb > 0
        try:
            await self._variants[name].unload.remote(asleep)
        except Exception as error:
            logger.warning("residency: %s did not leave in order: %r", name, error)
            # Dead, it holds nothing; alive, it may hold its memory until Serve has replaced it.
            died = isinstance(error, ActorDiedError) and not isinstance(error, RayTaskError)
            asleep = not died and await self._until_it_left(name, asleep)
        self._node.gone(name, time.monotonic(), asleep=asleep)
        self._swaps.inc(tags={"variant": name, "kind": "out"})

    async def _until_it_left(self, name: str, may_sleep: bool) -> bool:
        """Wait for a variant to say that it is out; whether it is asleep. Raises `RuntimeError` where it stays."""
        until = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < until:
            status = await self._status(name)
            said = "" if status is None else status["state"]
            if said == "absent" or (said == "asleep" and may_sleep):
                return bool(said == "asleep")
            if said == "awake":
                break
            await asyncio.sleep(WATCH_SECONDS)
        raise RuntimeError(f"{name} has not left")

    def _objection(self, swap: Swap) -> str | None:
        """Whether others have taken the memory that the budget speaks of."""
        free_now = free_gpu_memory_mb() if self._accelerator == "cuda" else free_memory_mb()
        if free_now is None:
            return None
        wanted, freed = self._node.room_for(swap)
        free = free_now + freed
        if free < wanted:
            return (
                f"{wanted} MiB are declared for it and only {free} MiB are free: something outside GroupQwen has "
                "taken the memory"
            )
        if free < TIGHT * wanted:
            logger.warning("residency: %s takes %d MiB, and only %d MiB are free", swap.coming, wanted, free)
        return None
