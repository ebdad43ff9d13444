from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.llamacpp.admission import FairQueue

tenants = st.sampled_from(["ann", "bob", "cy"])


def drain(queue: FairQueue[str]) -> list[str]:
    taken = []
    while queue.heads():
        taken.append(queue.pop(queue.heads()[0][0]))
    return taken


def test_one_who_queues_much_delays_another_by_one() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(100):
        queue.push("ann", f"ann{n}")
    queue.push("bob", "bob0")
    queue.push("bob", "bob1")
    assert drain(queue)[:5] == ["ann0", "bob0", "ann1", "bob1", "ann2"]


def test_what_is_put_back_comes_before_everything() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("ann", "ann0")
    queue.push("bob", "bob0")
    queue.push_front("bob", "bob-again")
    assert drain(queue) == ["bob-again", "ann0", "bob0"]


def test_a_tenant_that_comes_back_waits_for_its_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("ann", "ann0")
    queue.push("bob", "bob0")
    assert queue.pop("ann") == "ann0"
    queue.push("ann", "ann1")
    assert drain(queue) == ["bob0", "ann1"]


def test_removing_says_whether_it_waited() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("ann", "ann0")
    assert queue.remove("ann0")
    assert not queue.remove("ann0")
    assert (len(queue), queue.heads()) == (0, [])


def test_the_shortest_of_a_tenant_comes_first_and_nobody_is_overtaken_for_long() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("ann", "long", due=0 + 60)
    queue.push("ann", "short", due=1 + 2)
    queue.push("ann", "as short", due=1 + 2)
    queue.push("bob", "bobs", due=500)
    queue.push("ann", "short, but a minute later", due=61 + 2)
    assert drain(queue) == ["short", "bobs", "as short", "long", "short, but a minute later"]


class Queue(RuleBasedStateMachine):
    """Held against one list for each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.model: dict[str, list[int]] = {}
        self.number = 0

    @rule(tenant=tenants, front=st.booleans())
    def push(self, tenant: str, front: bool) -> None:
        self.number += 1
        waiting = self.model.setdefault(tenant, [])
        if front:
            self.queue.push_front(tenant, self.number)
            waiting.insert(0, self.number)
        else:
            self.queue.push(tenant, self.number)
            waiting.append(self.number)

    @precondition(lambda self: len(self.queue))
    @rule(which=st.integers(0, 10))
    def pop(self, which: int) -> None:
        heads = self.queue.heads()
        tenant, head = heads[which % len(heads)]
        assert self.queue.pop(tenant) == head == self.model[tenant].pop(0)
        if self.model[tenant]:
            assert self.queue.heads()[-1][0] == tenant, "its turn passes to the end of the round"

    @rule(item=st.integers(1, 30))
    def remove(self, item: int) -> None:
        waits = [waiting for waiting in self.model.values() if item in waiting]
        assert self.queue.remove(item) == bool(waits)
        for waiting in waits:
            waiting.remove(item)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == sum(map(len, self.model.values()))
        assert sorted(self.queue) == sorted(item for waiting in self.model.values() for item in waiting)
        assert dict(self.queue.heads()) == {tenant: items[0] for tenant, items in self.model.items() if items}


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30)
