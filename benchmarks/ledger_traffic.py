"""Mixed traffic in a closed loop: clients that ask in every way there is, one request after the other, and note
what came of each."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.ledger_rows import ANSWERED, FAILED, LEFT, Asked
from benchmarks.mixed_questions import Questions
from deployments.timing import within

PATIENCE_SECONDS = 300.0
BACK_OFF_SECONDS = 0.1
"""Of a client that was refused, so that refusals do not become most of the traffic."""

TOO_MANY_WORDS = 9_000


@dataclass(frozen=True)
class Keys:
    """Secrets. `limited` may ask little; `revoked` nothing."""

    usual: Sequence[str]
    limited: str
    revoked: str


@dataclass(frozen=True)
class Heard:
    """The beginning of an answer over HTTP, or all of it. `failed`: by an event in its stream; `left`: the client
    closed it; `broken`: it ended in the middle."""

    request_id: str
    status: int
    failed: bool = False
    left: bool = False
    broken: bool = False
    text: str = ""


class Traffic:
    """`asked`: all requests so far. Raises nothing that a server does: what went wrong stands in `broken`."""

    def __init__(self, url: str, keys: Keys, variants: Sequence[str], seed: int = 0) -> None:
        """`url` ends with /v1."""
        self._url, self._keys = url, keys
        self._models = ("auto", *variants)
        self._draw = random.Random(seed)
        self._questions = Questions(self._draw)
        self._session: aiohttp.ClientSession
        self._count = 0
        self.asked: list[Asked] = []
        self.broken: list[str] = []
        self._kinds: dict[Callable[[], Awaitable[None]], float] = {
            self._whole_answer: 14,
            self._stream: 20,
            self._repeat: 18,
            self._paraphrase: 10,
            self._turns: 5,
            self._texts: 6,
            self._text_stream: 3,
            self._socket: 6,
            self._leaves_stream: 8,
            self._leaves_early: 3,
            self._limited: 8,
            self._unknown_model: 3,
            self._too_long: 2,
            self._no_request: 2,
            self._no_key: 2,
        }

    async def run(self, clients: int, seconds: float) -> None:
        """So many clients for so long, and until their last answers are there."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            self._session = session
            until = asyncio.get_running_loop().time() + seconds
            await asyncio.gather(*(self._client(until) for _ in range(clients)))

    async def _client(self, until: float) -> None:
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while asyncio.get_running_loop().time() < until:
            ask = self._draw.choices(kinds, weights)[0]
            try:
                await ask()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.broken.append(f"{ask.__name__.strip('_')}: {error!r}")
                await asyncio.sleep(BACK_OFF_SECONDS)

    # -- what is asked -------------------------------------------------------------------------------

    def _mark(self) -> str:
        self._count += 1
        return f"load-{self._count}"

    def _body(self, *messages: dict[str, str], **fields: Any) -> dict[str, Any]:
        return {
            "model": self._draw.choice(self._models),
            "messages": list(messages),
            "max_tokens": self._draw.randint(4, 48),
            "user": self._mark(),
            **fields,
        }

    def _fresh(self, **fields: Any) -> dict[str, Any]:
        return self._body(_user(self._questions.fresh()), **fields)

    async def _whole_answer(self) -> None:
        await self._chat("whole answer", self._fresh())

    async def _stream(self) -> None:
        await self._chat("stream", self._fresh(stream=True))

    async def _repeat(self) -> None:
        fields = {"stream": self._draw.random() < 0.5, "temperature": 0, "max_tokens": 48}
        question, model = self._questions.again(), self._models[1 + self._draw.randrange(len(self._models) - 1)]
        await self._chat("the same again", self._body(_user(question), **fields, model=model), self._keys.usual[0])

    async def _paraphrase(self) -> None:
        fields = {"stream": self._draw.random() < 0.5, "temperature": 0, "max_tokens": 48}
        body = self._body(_user(self._questions.otherwise()), **fields, model=self._models[1])
        await self._chat("a paraphrase", body, self._keys.usual[0])

    async def _turns(self) -> None:
        key = self._draw.choice(self._keys.usual)
        messages: list[dict[str, str]] = []
        for turn in range(3):
            messages.append(_user(self._questions.fresh() if not turn else self._questions.further()))
            heard = await self._chat("a turn of three", self._body(*messages, model="auto"), key)
            messages.append({"role": "assistant", "content": heard.text or "Well."})

    async def _texts(self) -> None:
        count = self._draw.randint(1, 4)
        body = {
            "model": self._draw.choice(self._models),
            "prompt": [self._questions.fresh() for _ in range(count)],
            "max_tokens": self._draw.randint(4, 16),
            "user": self._mark(),
        }
        await self._chat("1 to 4 raw prompts", body, path="/completions", rows=count)

    async def _text_stream(self) -> None:
        body = {"model": self._draw.choice(self._models), "prompt": self._questions.fresh(), "stream": True}
        body |= {"max_tokens": self._draw.randint(4, 16), "user": self._mark()}
        await self._chat("a raw prompt, streamed", body, path="/completions")

    async def _leaves_stream(self) -> None:
        body = self._fresh(stream=True, max_tokens=48)
        await self._chat("left in its stream", body, leave_after=self._draw.randint(1, 6))

    async def _leaves_early(self) -> None:
        body, kind = self._fresh(stream=self._draw.random() < 0.5), "left before an answer"
        try:
            await within(self._chat(kind, body), self._draw.uniform(0.003, 0.3))
        except TimeoutError:
            self.asked.append(Asked(body["user"], kind, (), "left", LEFT, known=False))

    async def _limited(self) -> None:
        body = self._fresh(stream=self._draw.random() < 0.5, max_tokens=8)
        await self._chat("by a limited key", body, self._keys.limited)
        await asyncio.sleep(BACK_OFF_SECONDS)

    async def _unknown_model(self) -> None:
        await self._chat("an unknown model", self._fresh(model="no-such-model", stream=self._draw.random() < 0.5))

    async def _too_long(self) -> None:
        long = " ".join(self._draw.choices(("sun", "moon", "rain", "wind"), k=TOO_MANY_WORDS))
        await self._chat("too long", self._body(_user(long), model=self._models[1]))

    async def _no_request(self) -> None:
        await self._chat("no request (400)", self._fresh(messages=[]), rows=0)

    async def _no_key(self) -> None:
        await self._chat("a revoked key (401)", self._fresh(), self._keys.revoked, rows=0)

    # -- how it is asked -----------------------------------------------------------------------------

    async def _chat(
        self,
        kind: str,
        body: dict[str, Any],
        key: str = "",
        *,
        path: str = "/chat/completions",
        rows: int = 1,
        leave_after: int | None = None,
    ) -> Heard:
        """Ask over HTTP and note what came. `rows`: that the request owes once it is answered."""
        try:
            heard = await self._ask(path, body, key or self._draw.choice(self._keys.usual), leave_after)
        except (aiohttp.ClientError, OSError):
            # (A client that leaves early is cancelled: see `_leaves_early`.)
            self.asked.append(Asked(body["user"], kind, (), "left", LEFT, known=False))
            raise
        ids = tuple(f"{heard.request_id}-{n}" if n else heard.request_id for n in range(rows))
        told, statuses, one_of = str(heard.status), frozenset({heard.status}), None
        if heard.left:
            told, statuses = "left", LEFT
        elif heard.failed or heard.broken:
            told, statuses = "error", FAILED
        elif rows > 1 and heard.status != 200:
            # (Of several prompts, one may be refused while others are answered, or given up for it.)
            statuses, one_of = frozenset({200, 499, heard.status}), frozenset({heard.status})
        if heard.broken:
            self.broken.append(f"{kind}: {heard.request_id} ended in the middle")
        self.asked.append(Asked(body["user"], kind, ids, told, statuses, one_of))
        return heard

    async def _ask(self, path: str, body: dict[str, Any], key: str, leave_after: int | None) -> Heard:
        headers = {"authorization": f"Bearer {key}"}
        async with self._session.post(f"{self._url}{path}", json=body, headers=headers) as response:
            request_id = response.headers.get("x-request-id", "")
            if not body.get("stream") or response.status != 200:
                said = await response.json()
                return Heard(request_id, response.status, text=_text_of(said))
            events = 0
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    return Heard(request_id, response.status)
                if line.startswith(b'data: {"error"'):
                    return Heard(request_id, response.status, failed=True)
                events += line.startswith(b"data:")
                if leave_after is not None and events >= leave_after:
                    response.close()
                    return Heard(request_id, response.status, left=True)
        return Heard(request_id, response.status, broken=True)

    async def _socket(self) -> None:
        """Some messages over one socket: whole answers, an unknown model, one that is cancelled or left."""
        headers = {"authorization": f"Bearer {self._draw.choice(self._keys.usual)}"}
        async with self._session.ws_connect(f"{self._url}/chat/ws", headers=headers) as socket:
            base = ""
            ends = self._draw.choices(("whole", "refused", "cancel", "leave"), k=2)
            for number, end in enumerate(["whole", *ends]):
                body = self._fresh(**({"model": "no-such-model"} if end == "refused" else {}))
                await socket.send_json(body)
                told, seen = await _listen(socket, end)
                base = base or seen
                identity = f"{base}-{number}" if number else base
                self._note_message(body["user"], identity, told)
                if told in ("left", "broken"):
                    break

    def _note_message(self, mark: str, identity: str, end: str) -> None:
        statuses = {"done": ANSWERED, "error": FAILED}.get(end, LEFT)
        told = {"done": "200", "error": "error"}.get(end, "left")
        if end == "broken":
            self.broken.append(f"WebSocket: {identity} ended in the middle")
        ids = (identity,) if identity else ()
        self.asked.append(Asked(mark, "WebSocket message", ids, told, statuses, known=bool(identity)))


async def _listen(socket: aiohttp.ClientWebSocketResponse, end: str) -> tuple[str, str]:
    """How an answer ended (done, error, cancelled, left, broken), and its id, if a chunk has said it."""
    identity = ""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            break
        said = json.loads(message.data)
        if "error" in said:
            return "error", identity
        if "type" in said:
            return str(said["type"]), identity
        first, identity = not identity, str(said["id"]).removeprefix("chatcmpl-")
        if first and end == "cancel":
            await socket.send_json({"type": "cancel"})
        elif first and end == "leave":
            await socket.close()
            return "left", identity
    return "broken", identity


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _text_of(said: dict[str, Any]) -> str:
    choices = said.get("choices") or [{}]
    return str(choices[0].get("message", {}).get("content") or "")
