"""Residency as a Serve deployment: watches the variants, and carries out the swaps that the machine decides.

The variants keep their own gates, so a request to one that is awake never comes by here. A variant that is
not asks for itself (`wanted`), again and again while someone waits, so that this may die at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Gauge

from deployments.contract import ChatError
from deployments.residency.machine import Footprint, Impossible, Residency, State, Swap
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

WATCH_SECONDS = 1.0
STATUS_SECONDS = 2.0
TIGHT = 1.25
"""A load is warned about where less than this many times its footprint is free in the machine."""

AWAY = (RayActorError, RayTaskError, RayServeException, TimeoutError)


@deployment
class ResidencyKeeper:
    """The memory budget of one node, MiB, and the variants that share it."""

    def __init__(
        self, budget_mb: int, footprints: Mapping[str, Footprint], variants: Mapping[str, DeploymentHandle]
    ) -> None:
        self._node = Residency(budget_mb, footprints)
        self._variants = dict(variants)
        self._asked: dict[str, int] = {}
        self._news = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._swaps = Counter("groupqwen_residency_swaps", "Variants brought in or sent out.", ("variant", "kind"))
        self._used = Gauge("groupqwen_residency_used_mb", "Declared memory of what is in, MiB.")
        self._running = asyncio.get_running_loop().create_task(self._run())

    # -- asked from outside --------------------------------------------------------------------------

    async def wanted(self, name: str) -> None:
        """Someone waits for this variant."""
        self._node.wanted(name, time.monotonic())
        self._news.set()

    async def load(self, name: str, seconds: float) -> dict[str, Any]:
        """Bring it in, and wait for it. Raises `ChatError` where it does not come in time."""
        until = time.monotonic() + seconds
        self._problems.pop(name, None)
        while self._node.state(name) is not State.AWAKE:
            if name in self._problems or time.monotonic() > until:
                reason = self._problems.get(name, f"it was not in memory within {seconds:g} s")
                raise ChatError(f"{name}: {reason}", status=503, code="variant_not_ready", retry_after=10)
            await self.wanted(name)
            await asyncio.sleep(0.1)
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
        return self.about(name)

    async def states(self) -> dict[str, Any]:
        """The budget, and what holds it."""
        return {
            "budget_mb": self._node.budget_mb,
            "used_mb": self._node.used_mb,
            "waiting": self._node.waiting(),
            "variants": {name: self.about(name) for name in self._variants},
        }

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
        for name, status in (await self._statuses()).items():
            # Draining or loading, too, holds memory; what becomes of it shows in a later look.
            if status is not None and status["state"] != "absent":
                self._node.adopt(name, State.AWAKE, time.monotonic())
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), WATCH_SECONDS)
            self._news.clear()
            try:
                await self._look()
                while (swap := self._node.next_swap(time.monotonic())) is not None:
                    await self._carry_out(swap)
                    await self._look()
            except Exception:
                logger.exception("residency: a round failed")
            self._used.set(self._node.used_mb)

    async def _statuses(self) -> dict[str, dict[str, Any] | None]:
        async def one(name: str) -> dict[str, Any] | None:
            try:
                status: dict[str, Any] = await asyncio.wait_for(
                    self._variants[name].status.remote(), STATUS_SECONDS
                )
                return status
            except AWAY:
                return None

        names = list(self._variants)
        return dict(zip(names, await asyncio.gather(*(one(name) for name in names)), strict=True))

    async def _look(self) -> None:
        """How busy each is, how often it was asked since the last look, and whether it has died."""
        now = time.monotonic()
        for name, status in (await self._statuses()).items():
            known = self._node.state(name)
            if status is None:
                continue  # Busy, or being restarted: then it says so itself once it is back.
            asked, before = status["asked"], self._asked.get(name, 0)
            if asked > before:
                self._node.used(name, now, asked - before)
            self._asked[name] = asked
            self._node.busy(name, status["active"] + status["waiting"])
            if known is State.AWAKE and status["state"] == "absent":
                logger.warning("residency: %s was restarted and is not in memory any more", name)
                self._node.gone(name, now)

    async def _carry_out(self, swap: Swap) -> None:
        await asyncio.gather(*(self._send_out(name) for name in swap.leaving))
        name = swap.coming
        if name is None or self._node.state(name) is not State.LOADING:
            return
        try:
            self._check_room(name)
            await self._variants[name].load.remote()
        except (*AWAY, MemoryError) as error:
            self._problems[name] = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            logger.error("residency: %s cannot be loaded: %s", name, self._problems[name])
            self._node.failed(name, time.monotonic())
            self._variants[name].fail.remote(self._problems[name])
            return
        self._problems.pop(name, None)
        self._node.came(name, time.monotonic())
        self._swaps.inc(tags={"variant": name, "kind": "in"})

    async def _send_out(self, name: str) -> None:
        try:
            await self._variants[name].unload.remote()
        except AWAY:
            logger.warning("residency: %s died instead of leaving", name)
        self._node.gone(name, time.monotonic())
        self._swaps.inc(tags={"variant": name, "kind": "out"})

    def _check_room(self, name: str) -> None:
        """Whether others have taken the memory that the budget speaks of. Raises MemoryError."""
        wanted = self._node.footprint(name).awake_mb
        free = psutil.virtual_memory().available // 2**20
        if free < wanted:
            raise MemoryError(
                f"{wanted} MiB are declared for it and only {free} MiB are free in the machine: something outside "
                "GroupQwen has taken the memory"
            )
        if free < TIGHT * wanted:
            logger.warning("residency: %s takes %d MiB, and only %d MiB are free", name, wanted, free)
