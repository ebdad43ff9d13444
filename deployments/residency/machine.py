"""The residency of variants in one node's memory, as a state machine. Pure: it decides, others load.

It hands out one swap at a time (who drains, then who loads), so that the declared footprints of what is
loading, awake or draining never exceed the budget at any instant, nor their number what is allowed. A part of the
budget can be lent to a guest (a training job): variants leave for it, least recently used first, and come back
when it is given back, or the lease lapses. Time is passed in, in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

HALF_LIFE_SECONDS = 300.0
"""After this long a use counts half: the memory of what was asked for how often."""


class State(StrEnum):
    """ABSENT: nothing of it is in memory. ASLEEP: what brings it back faster is (vLLM's sleep). DRAINING: it
    finishes what it is answering and takes nothing new."""

    ABSENT = "absent"
    LOADING = "loading"
    AWAKE = "awake"
    DRAINING = "draining"
    ASLEEP = "asleep"


HOLDING = frozenset({State.LOADING, State.AWAKE, State.DRAINING})


@dataclass(frozen=True)
class Footprint:
    """What a variant takes and costs: MiB while awake and while asleep (in the memory that the budget is
    about), seconds to bring it back. `pinned`: never asked to go. `idle_ttl`: goes after this long without
    use (seconds), even if nobody needs the room."""

    awake_mb: int
    asleep_mb: int = 0
    load_seconds: float = 1.0
    pinned: bool = False
    idle_ttl: float | None = None


@dataclass(frozen=True)
class Swap:
    """The one thing to do now: let `leaving` drain and go, then load `coming` (None: nothing, they were idle
    for too long). `altogether`: sleep would not free enough."""

    coming: str | None
    leaving: tuple[str, ...] = ()
    altogether: bool = False
    coming_was_asleep: bool = False


@dataclass(frozen=True)
class Policy:
    """`slice_seconds`: how long one that has just come stays, though others wait, while it is in use.
    `patience_seconds`: after this long a waiter is served although that cuts a slice short."""

    slice_seconds: float = 5.0
    patience_seconds: float = 15.0


@dataclass
class _Variant:
    footprint: Footprint
    state: State = State.ABSENT
    since: float = 0.0
    in_flight: int = 0
    waiting_since: float | None = None
    uses: float = 0.0
    last_use: float = 0.0
    pinned: bool = False
    dismissed: bool = False

    def use(self, now: float, count: int = 1) -> None:
        self.uses = self.rate_weight(now) + count
        self.last_use = now

    def rate_weight(self, now: float) -> float:
        """Uses, each halved every half-life."""
        return self.uses * math.exp2((self.last_use - now) / HALF_LIFE_SECONDS)


@dataclass(frozen=True)
class Lease:
    """MiB that are lent to a guest, until then."""

    mb: int
    until: float


class Impossible(ValueError):
    """What can never be brought in, variant or guest: it alone, beside what stays, is larger than the budget."""


class Residency:
    """The memory of one node. `budget_mb` holds for the declared footprints of all its variants; `max_awake`: the
    most of them at once, or None. `spared`: who does not leave for a guest."""

    def __init__(
        self,
        budget_mb: int,
        footprints: Mapping[str, Footprint],
        policy: Policy | None = None,
        max_awake: int | None = None,
        spared: Collection[str] = (),
    ) -> None:
        self.budget_mb = budget_mb
        self.spared = frozenset(spared)
        self._leases: dict[str, Lease] = {}
        self._put_out: set[str] = set()
        """Who has left for a guest, and comes back."""
        self.max_awake = len(footprints) if max_awake is None else max_awake
        self.policy = policy or Policy()
        self._variants = {name: _Variant(fp, pinned=fp.pinned) for name, fp in footprints.items()}
        self._swap: Swap | None = None
        self._still_leaving: set[str] = set()
        for name in self._variants:
            self._check_possible(name)

    # -- what is there -------------------------------------------------------------------------------

    def state(self, name: str) -> State:
        return self._variants[name].state

    @property
    def used_mb(self) -> int:
        """Declared MiB of everything that holds memory now."""
        return sum(self._held(v) for v in self._variants.values())

    @property
    def lent_mb(self) -> int:
        """MiB that guests have."""
        return sum(lease.mb for lease in self._leases.values())

    @property
    def room_mb(self) -> int:
        """MiB that are the variants' now."""
        return self.budget_mb - self.lent_mb

    @property
    def awake(self) -> int:
        """How many are loading, awake or draining."""
        return sum(v.state in HOLDING for v in self._variants.values())

    @property
    def swap(self) -> Swap | None:
        """The swap that is being carried out."""
        return self._swap

    def is_pinned(self, name: str) -> bool:
        return self._variants[name].pinned

    def footprint(self, name: str) -> Footprint:
        return self._variants[name].footprint

    def waiting(self) -> list[str]:
        """Variants that someone waits for, the longest wait first."""
        names = [name for name, v in self._variants.items() if v.waiting_since is not None]
        return sorted(names, key=lambda name: self._variants[name].waiting_since or 0.0)

    @staticmethod
    def _held(variant: _Variant) -> int:
        if variant.state in HOLDING:
            return variant.footprint.awake_mb
        return variant.footprint.asleep_mb if variant.state is State.ASLEEP else 0

    def _check_possible(self, name: str) -> None:
        others = [v for other, v in self._variants.items() if other != name]
        # What sleeps can be thrown out; what is pinned cannot.
        fixed = sum(v.footprint.awake_mb for v in others if v.pinned)
        wanted = self._variants[name].footprint.awake_mb
        if sum(v.pinned for v in others) >= self.max_awake:
            raise Impossible(f"{name} could never come: as many are pinned as may be in memory at once")
        if wanted + fixed > self.budget_mb:
            raise Impossible(
                f"{name} takes {wanted} MiB, what is pinned takes {fixed} MiB, and the budget is "
                f"{self.budget_mb} MiB"
            )

    # -- what happens --------------------------------------------------------------------------------

    def wanted(self, name: str, now: float) -> None:
        """Someone waits for it."""
        variant = self._variants[name]
        if variant.waiting_since is None:
            variant.waiting_since = now

    def given_up(self, name: str) -> None:
        """Nobody waits for it any more."""
        self._variants[name].waiting_since = None

    def used(self, name: str, now: float, count: int = 1) -> None:
        """`count` requests have been asked of it."""
        self._variants[name].use(now, count)

    def busy(self, name: str, in_flight: int) -> None:
        """How many requests it is answering."""
        self._variants[name].in_flight = in_flight

    def pin(self, name: str, pinned: bool) -> None:
        """Keep it once it is there, or let it go again. Raises `Impossible`, changing nothing, where some
        other variant could then never come, or what it takes is lent to a guest."""
        variant = self._variants[name]
        before, variant.pinned = variant.pinned, pinned
        try:
            for other in self._variants:
                self._check_possible(other)
            if pinned and not before and self._leases and self._staying_mb + self.lent_mb > self.budget_mb:
                raise Impossible(
                    f"with {name}, {self._staying_mb} MiB would stay, training has {self.lent_mb} MiB, and the "
                    f"budget is {self.budget_mb} MiB"
                )
        except Impossible:
            variant.pinned = before
            raise

    def dismiss(self, name: str) -> None:
        """It may go as soon as it is idle, whoever asked for it before."""
        self._variants[name].dismissed = True
        self._put_out.discard(name)

    # -- guests --------------------------------------------------------------------------------------

    def lend(self, guest: str, mb: int, until: float, *, has: bool = False) -> bool:
        """Lend memory, or go on lending it; whether it is free by now. Said again and again: variants leave in
        between. `has`: the guest has taken it already, whatever is remembered here. Raises `Impossible` where it
        never will be, as things are."""
        # (Whoever has it keeps it: it would not be free for being refused.)
        if not has and guest not in self._leases and mb + self._staying_mb + self.lent_mb > self.budget_mb:
            raise Impossible(
                f"{mb} MiB are wanted; of {self.budget_mb} MiB, {self._staying_mb} are for variants that stay and "
                f"{self.lent_mb} for other jobs"
            )
        self._leases[guest] = Lease(mb, until)
        coming = self._variants[self._swap.coming] if self._swap is not None and self._swap.coming else None
        on_its_way = coming.footprint.awake_mb - self._held(coming) if coming is not None else 0
        return self.used_mb + on_its_way <= self.room_mb

    @property
    def _staying_mb(self) -> int:
        """MiB of those that leave for no guest."""
        return sum(v.footprint.awake_mb for name, v in self._variants.items() if v.pinned or name in self.spared)

    def in_the_way(self) -> list[str]:
        """Who holds memory that a guest waits for."""
        return [name for name, v in self._variants.items() if self._held(v) and not self._stays(name)]

    def give_back(self, guest: str) -> None:
        """A guest needs its memory no more."""
        self._leases.pop(guest, None)

    def lacks_room(self, name: str) -> bool:
        """Whether this variant cannot come while guests have what they have."""
        staying = (v for other, v in self._variants.items() if other != name and self._stays(other))
        return self._variants[name].footprint.awake_mb + sum(v.footprint.awake_mb for v in staying) > self.room_mb

    def _stays(self, name: str) -> bool:
        return self._variants[name].pinned or (bool(self._leases) and name in self.spared)

    def _lapse(self, now: float) -> None:
        """Whose guest does not say any more that it is there."""
        for guest in [guest for guest, lease in self._leases.items() if lease.until <= now]:
            del self._leases[guest]

    def adopt(self, name: str, state: State, now: float) -> None:
        """What is found to be so, whatever was thought: after a start beside variants that run already."""
        self._variants[name].waiting_since = None
        self._enter(name, state, now)

    def abandon(self, now: float) -> None:
        """The swap cannot be carried out: who was to leave stays, and who was to come is given up."""
        swap, self._swap = self._swap, None
        if swap is None:
            return
        for name in self._still_leaving:
            if self._variants[name].state is State.DRAINING:
                self._enter(name, State.AWAKE, now)
        self._still_leaving = set()
        if swap.coming is not None:
            self.given_up(swap.coming)
            if self._variants[swap.coming].state is State.LOADING:
                self._enter(swap.coming, State.ABSENT, now)

    # -- what to do ----------------------------------------------------------------------------------

    def next_swap(self, now: float) -> Swap | None:
        """What to do now, if anything: carry it out, and report `gone` and `came` or `failed`. None while
        one is under way."""
        self._lapse(now)
        if self._swap is not None:
            return None
        self._swap = (
            self._swap_for_room(now)
            or self._swap_for_waiters(now)
            or self._swap_for_returning()
            or self._swap_for_idlers(now)
        )
        swap = self._swap
        if swap is not None:
            self._still_leaving = set(swap.leaving)
            for name in swap.leaving:
                if self._variants[name].state is State.AWAKE:
                    self._enter(name, State.DRAINING, now)
            self._begin_load(now)
        return swap

    def _swap_for_waiters(self, now: float) -> Swap | None:
        for name in self.waiting():
            variant = self._variants[name]
            if variant.state not in (State.ABSENT, State.ASLEEP) or self.lacks_room(name):
                continue
            needed = self.used_mb - self._held(variant) + variant.footprint.awake_mb - self.room_mb
            places = self.awake + 1 - self.max_awake
            impatient = now - (variant.waiting_since or now) >= self.policy.patience_seconds
            for altogether in (False, True):
                leaving = self._leaving(name, needed, places, now, impatient, altogether)
                if leaving is not None:
                    return Swap(name, leaving, altogether, variant.state is State.ASLEEP)
            # In order: who waits longer is not passed by those who need less room.
            return None
        return None

    def _swap_for_room(self, now: float) -> Swap | None:
        """What is in memory may be more than there is room for: after a rollout that left less, or when some is
        lent."""
        excess, too_many = self.used_mb - self.room_mb, self.awake - self.max_awake
        if excess <= 0 and too_many <= 0:
            return None
        for altogether in (False, True) if self._leases else (True,):
            leaving = self._leaving("", excess, too_many, now, impatient=True, altogether=altogether)
            if leaving:
                if self._leases:
                    self._put_out |= {name for name in leaving if self.state(name) is State.AWAKE}
                return Swap(None, leaving, altogether)
        return None

    def _swap_for_returning(self) -> Swap | None:
        """Who has left for a guest comes back when all is given back: the last used first, while there is room."""
        if self._leases:
            return None
        for name in sorted(self._put_out, key=lambda name: -self._variants[name].last_use):
            self._put_out.discard(name)
            variant = self._variants[name]
            if variant.state not in (State.ABSENT, State.ASLEEP) or self.awake >= self.max_awake:
                continue
            if self.used_mb - self._held(variant) + variant.footprint.awake_mb <= self.room_mb:
                return Swap(name, coming_was_asleep=variant.state is State.ASLEEP)
        return None

    def _swap_for_idlers(self, now: float) -> Swap | None:
        for name, v in self._variants.items():
            ttl = v.footprint.idle_ttl
            idle = v.state is State.AWAKE and not v.in_flight and not v.pinned and v.waiting_since is None
            over = ttl is not None and now - max(v.last_use, v.since) >= ttl
            if idle and (over or v.dismissed):
                return Swap(None, (name,))
        return None

    def _leaving(
        self, coming: str, needed: int, places: int, now: float, impatient: bool, altogether: bool
    ) -> tuple[str, ...] | None:
        """The least worthy set whose going frees `needed` MiB and so many places, idle ones first; None if none
        may go yet."""

        def enough(leaving: list[tuple[str, _Variant]]) -> bool:
            freed = sum(self._freed(v, altogether) for _, v in leaving)
            return freed >= needed and sum(v.state is State.AWAKE for _, v in leaving) >= places

        if enough([]):
            return ()
        candidates = [
            (name, v)
            for name, v in self._variants.items()
            if name != coming and self._may_go(v) and not (v.state is State.AWAKE and self._stays(name))
        ]
        # For a guest, whose rate of use is not known, the least recently used go first.
        for_guest = coming == "" and bool(self._leases)
        settled = [(name, v) for name, v in candidates if impatient or not self._in_its_slice(v, now)]
        for pool in ([(n, v) for n, v in settled if not v.in_flight], settled):
            chosen: list[tuple[str, _Variant]] = []
            for item in sorted(pool, key=lambda item: (self._rank(item[0], now, for_guest), item[0])):
                if enough(chosen):
                    break
                chosen.append(item)
            if not enough(chosen):
                continue
            # A small one that was chosen early may not be needed beside a large one that was chosen late.
            for item in sorted(chosen, key=lambda item: -self._rank(item[0], now, for_guest)):
                others = [other for other in chosen if other is not item]
                if enough(others):
                    chosen = others
            return tuple(name for name, _ in chosen)
        return None

    def _rank(self, name: str, now: float, for_guest: bool) -> float:
        return self.last_use(name) if for_guest else self.worth(name, now)

    def worth(self, name: str, now: float) -> float:
        """Seconds of waiting that keeping it saves in a half-life, for each MiB that it takes. Who is worth least
        goes first."""
        variant = self._variants[name]
        return variant.rate_weight(now) * variant.footprint.load_seconds / max(1, variant.footprint.awake_mb)

    def room_for(self, swap: Swap) -> tuple[int, int]:
        """MiB that the one who comes takes beyond what it holds asleep, and that those who leave will free. Before
        the swap has begun: who is to leave is draining or asleep, who comes is absent or asleep."""
        assert swap.coming is not None
        coming = self._variants[swap.coming]
        asleep = coming.footprint.asleep_mb if swap.coming_was_asleep else 0
        freed = sum(self._freed(self._variants[name], swap.altogether) for name in swap.leaving)
        return coming.footprint.awake_mb - asleep, freed

    def last_use(self, name: str) -> float:
        return self._variants[name].last_use

    @staticmethod
    def _freed(variant: _Variant, altogether: bool) -> int:
        """MiB that its going frees: who is awake goes to sleep where it can, who sleeps goes altogether."""
        footprint = variant.footprint
        if variant.state is State.ASLEEP:
            return footprint.asleep_mb
        return footprint.awake_mb - (0 if altogether else footprint.asleep_mb)

    @staticmethod
    def _may_go(variant: _Variant) -> bool:
        if variant.state is State.ASLEEP:
            return variant.footprint.asleep_mb > 0
        return variant.state is State.AWAKE and not variant.pinned

    def _in_its_slice(self, variant: _Variant, now: float) -> bool:
        """Hysteresis: who has just come, and is in use, is not sent away at once."""
        if variant.state is not State.AWAKE:
            return False
        slice_seconds = max(self.policy.slice_seconds, variant.footprint.load_seconds)
        in_use = variant.in_flight > 0 or now - variant.last_use < slice_seconds / 4
        return in_use and now - variant.since < slice_seconds

    # -- what was done -------------------------------------------------------------------------------

    def gone(self, name: str, now: float, *, asleep: bool = False) -> None:
        """It holds no memory any more (`asleep`: only what sleeping takes)."""
        variant = self._variants[name]
        self._enter(name, State.ASLEEP if asleep and variant.footprint.asleep_mb else State.ABSENT, now)
        variant.in_flight = 0
        self._still_leaving.discard(name)
        if self._swap is not None and name == self._swap.coming:
            self._swap = None
        self._begin_load(now)

    def came(self, name: str, now: float) -> None:
        """It is loaded and answers. What that took replaces half of what was thought of it."""
        variant = self._variants[name]
        if variant.state is State.LOADING:
            seconds = (variant.footprint.load_seconds + now - variant.since) / 2
            variant.footprint = replace(variant.footprint, load_seconds=seconds)
        self._enter(name, State.AWAKE, now)
        variant.waiting_since = None
        if self._swap is not None and self._swap.coming == name:
            self._swap = None

    def failed(self, name: str, now: float) -> None:
        """It could not be loaded: it holds nothing, and who waits for it must be told."""
        self.given_up(name)
        self.gone(name, now)

    def _begin_load(self, now: float) -> None:
        """The second half of a swap, once all who leave are gone."""
        swap = self._swap
        if swap is None or self._still_leaving:
            return
        if swap.coming is None:
            self._swap = None
            return
        coming = self._variants[swap.coming]
        if coming.state in (State.ABSENT, State.ASLEEP):
            self._enter(swap.coming, State.LOADING, now)

    def _enter(self, name: str, state: State, now: float) -> None:
        variant = self._variants[name]
        variant.state, variant.since, variant.dismissed = state, now, False
