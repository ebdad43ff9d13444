"""More than ten thousand requests that no well-meaning client sends, to the real stack. Each is answered as HTTP
and OpenAI's API want it, and nothing dies, hangs or leaks. They are the same each time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import h11
import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

from tests.integration.conftest import LARGE, MIDDLE, SMALL, Stack, wait_for
from tests.integration.hostile.bodies import body_cases
from tests.integration.hostile.case import KEY, Case, request
from tests.integration.hostile.frames import goes_on_after_its_end, socket_cases
from tests.integration.hostile.heads import header_cases, path_cases, raw_cases
from tests.integration.hostile.leavers import leaving_cases
from tests.integration.wire import ANSWER_SECONDS, QUIET_SECONDS, UPGRADE, EndedSilently, Wire, wire
from tests.untraced import untraced

CONNECTIONS = 24
FILES_SLACK = 16
"""Connections that HAProxy keeps to the Gateway come and go."""
MEMORY_SLACK = 48 * 2**20


def drawn(strategy: st.SearchStrategy[Case], count: int) -> list[Case]:
    """As many cases, less those that are alike; the same each time."""
    cases: dict[Case, None] = {}

    @given(strategy)
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def draw(case: Case) -> None:
        cases[case] = None

    with untraced():
        draw()
    return list(cases)


@dataclass
class Seen:
    """What came back."""

    sent: int = 0
    statuses: Counter[int | str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def fault(self, case: Case, what: str) -> None:
        self.wrong.append(f"{case.kind}: {what}\n  after {case.data[:1200]!r}")


@dataclass(frozen=True)
class Footprint:
    """What the processes in a request's way hold."""

    pids: dict[str, int]
    files: dict[str, int]
    memory: dict[str, int]

    @classmethod
    def of(cls, stack: Stack) -> Footprint:
        processes = {name: stack.replica(name) for name in ("Gateway", "Router", SMALL)}
        return cls(
            {name: process.pid for name, process in processes.items()},
            {name: process.num_fds() for name, process in processes.items()},
            {name: process.memory_info().rss for name, process in processes.items()},
        )


def all_is_free(stack: Stack) -> bool:
    status = [stack.status(name) for name in (SMALL, MIDDLE, LARGE)]
    return all(one["active"] == 0 and one["waiting"] == 0 for one in status)


@contextmanager
def nothing_lost(stack: Stack) -> Iterator[None]:
    """The same processes after it, no slot held, and an ordinary client is answered."""
    stack.wait_until_well()
    before = Footprint.of(stack)
    keys = {key["id"] for key in stack.get("/keys").json()["keys"]}
    yield
    wait_for(lambda: all_is_free(stack), 60, "a slot is held")
    stack.wait_until_well()
    after = Footprint.of(stack)
    assert after.pids == before.pids, "a replica died"
    assert stack.ask("And now?", model=SMALL, max_tokens=2).status_code == 200
    for key in stack.get("/keys").json()["keys"]:
        if key["id"] not in keys:
            httpx.delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers)


Send = Callable[[Wire, Case, bytes, Seen], Awaitable[None]]


async def ask(connection: Wire, case: Case, key: bytes, seen: Seen) -> None:
    """One request and its answer; or bytes, and the answers to what of them was a request."""
    await connection.send(case.data.replace(KEY, key))
    while True:
        answer = await connection.answer(case.method, ANSWER_SECONDS if case.whole else QUIET_SECONDS)
        if answer is None:
            if case.whole:
                seen.fault(case, "no answer")
            return
        seen.statuses[answer.status] += 1
        for fault in answer.faults(case.method, whole=case.whole):
            seen.fault(case, fault)
        if case.expects not in answer.body:
            seen.fault(case, f"another's answer: {answer.body[:200]!r}")
        if case.whole or not connection.open:
            return


async def chat(connection: Wire, case: Case, key: bytes, seen: Seen) -> None:
    """A WebSocket, which is not closed with 1011."""
    head, _, frames = case.data.replace(KEY, key).partition(b"\r\n\r\n")
    await connection.send(head + b"\r\n\r\n")
    answer = await connection.answer(UPGRADE, ANSWER_SECONDS)
    if answer is None or answer.status != 101:
        seen.fault(case, f"no WebSocket: {answer}")
        return
    await connection.send(frames)
    try:
        async for opcode, data in connection.frames(2 * QUIET_SECONDS):
            seen.statuses[f"frame {opcode}"] += 1
            if opcode == 8:
                code = int.from_bytes(data[:2], "big")
                seen.statuses[f"close {code}"] += 1
                if code == 1011:
                    seen.fault(case, "closed with 1011, an internal error")
                return
            if opcode == 1 and b"internal_error" in data:
                seen.fault(case, f"it says {data[:300]!r}")
    except EndedSilently:
        if not goes_on_after_its_end(frames):
            raise
        seen.statuses["reset behind its own end"] += 1


async def leave(connection: Wire, case: Case, key: bytes, seen: Seen) -> None:
    """Go away after what is sent and read. What has come by then is an answer or the beginning of one."""
    await connection.send(case.data.replace(KEY, key))
    read = b""
    with suppress(TimeoutError):
        while len(read) < case.reads:
            data = await connection.receive(QUIET_SECONDS)
            read += data
            if not data:
                break
    seen.statuses[read[9:12].decode("latin-1") or "nothing"] += 1
    if b"internal_error" in read or read[9:10] == b"5":
        seen.fault(case, f"it says {read[:300]!r}")


async def play(stack: Stack, cases: Sequence[Case], send: Send = ask, *, anew: bool = False) -> Seen:
    """Send the cases over some connections at once; `anew`: each over its own."""
    address = urlsplit(stack.url)
    waiting, seen = iter(cases), Seen()

    async def one() -> None:
        for case in waiting:
            async with wire(str(address.hostname), address.port or 80) as connection:
                current: Case | None = case
                while current is not None:
                    seen.sent += 1
                    try:
                        await send(connection, current, stack.key.encode(), seen)
                    except (h11.RemoteProtocolError, ValueError, TimeoutError) as error:
                        seen.fault(current, f"{type(error).__name__}: {error}")
                        break
                    reusable = connection.open and current.whole and not anew
                    current = next(waiting, None) if reusable else None

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return seen


def report(seen: Seen) -> str:
    """What came back, how often, and two examples of each fault."""
    lines = [f"{len(seen.wrong)} faults in {seen.sent} requests; answers: {dict(seen.statuses)}"]
    for fault, count in Counter(what.split("\n")[0] for what in seen.wrong).most_common(20):
        examples = [what for what in seen.wrong if what.startswith(fault)][:2]
        lines += [f"{count} times:", *examples]
    return "\n".join(lines)


def ordinary(number: int) -> Case:
    """A request that none of the others may disturb: its answer names what it asks for."""
    name = f"nobody-{number}"
    return replace(request(f"/v1/models/{name}", method="GET", kind="ordinary"), expects=name.encode())


def test_ten_thousand_requests_are_answered_and_nothing_leaks(stack: Stack) -> None:
    cases = [
        *drawn(body_cases, 10_000),
        *drawn(header_cases, 2200),
        *drawn(path_cases, 1000),
        *drawn(raw_cases, 1200),
        *(ordinary(n) for n in range(300)),
    ]
    # Shuffled, so that the halves are alike and an answer to what is smuggled would fall to others.
    cases = [case for start in range(97) for case in cases[start::97]]
    half = len(cases) // 2
    with nothing_lost(stack):
        first = asyncio.run(play(stack, cases[:half]))
        middle = Footprint.of(stack)
        second = asyncio.run(play(stack, cases[half:]))
        end = Footprint.of(stack)
    print(report(first), report(second), middle, end, sep="\n")
    assert first.wrong == [] and second.wrong == [], report(first) + report(second)
    assert first.sent + second.sent == len(cases) >= 10_000
    for name, files in end.files.items():
        assert files <= middle.files[name] + FILES_SLACK, (name, middle, end)
        assert end.memory[name] <= middle.memory[name] + MEMORY_SLACK, (name, middle, end)


def test_a_request_in_a_binary_message_is_a_request(stack: Stack) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": SMALL, "max_tokens": 1}
    with connect(stack.url.replace("http://", "ws://") + "/chat/ws") as socket:
        socket.send(json.dumps({"api_key": stack.key}).encode())
        socket.send(json.dumps(body).encode())
        assert "choices" in json.loads(socket.recv(timeout=60))
    with connect(stack.url.replace("http://", "ws://") + "/chat/ws") as socket:
        socket.send(b"\xff\x00")
        assert json.loads(socket.recv(timeout=10))["error"]["code"] == "invalid_api_key"


def test_websockets_that_say_anything(stack: Stack) -> None:
    with nothing_lost(stack):
        seen = asyncio.run(play(stack, drawn(socket_cases, 500), chat, anew=True))
    print(report(seen))
    assert seen.wrong == [], report(seen)


def test_clients_that_leave_free_their_slots(stack: Stack) -> None:
    gateway = stack.replica("Gateway")
    files = gateway.num_fds()
    with nothing_lost(stack):
        seen = asyncio.run(play(stack, drawn(leaving_cases, 400), leave, anew=True))
    print(report(seen))
    assert seen.wrong == [], report(seen)
    wait_for(lambda: gateway.num_fds() <= files + FILES_SLACK, 60, "the Gateway keeps their connections")
