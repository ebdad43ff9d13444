"""A proxy between the Router and a real variant that breaks answers, on purpose and in four ways."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import aiohttp
from aiohttp import web

Fault = Literal["cut", "stall", "malformed", "death", "error"]


class FaultyProxy:
    """Forwards to an OpenAI-compatible endpoint. `fault`, after `after` events of the answer with text; None:
    none."""

    def __init__(self, upstream: str, key: str, model: str) -> None:
        self._upstream, self._key, self._model = upstream, key, model
        self.fault: Fault | None = None
        self.after = 0
        self.asked = 0
        self.passed: list[str] = []
        """The texts that went through of the last answer."""
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One chat completion."""
        self.asked += 1
        self.passed = []
        body = {**await request.json(), "model": self._model}
        headers = {"Authorization": f"Bearer {self._key}", "cache-control": "no-store"}
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._upstream}/chat/completions", json=body, headers=headers) as upstream,
        ):
            if self.fault == "error":
                return web.json_response({"error": {"message": "broken", "code": None}}, status=500)
            await response.prepare(request)
            async for line in upstream.content:
                if self.fault is not None and len(self.passed) >= self.after and line.startswith(b"data:"):
                    return await self._break(request, response)
                await response.write(line)
                text = line.decode()
                if '"content":"' in text and '"content":""' not in text:
                    self.passed.append(text.split('"content":"')[1].split('"')[0])
        return response

    async def _break(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if self.fault == "stall":
            await asyncio.sleep(60)
        elif self.fault == "malformed":
            await response.write(b'data: {"id": "x", "choices": "none of them"}\n\n')
        elif self.fault == "cut":
            await response.write_eof()
        elif request.transport is not None:
            request.transport.abort()
        return response


@contextmanager
def running(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """In a thread with a loop of its own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", proxy.handle)
        runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", proxy.port)
        await site.start()
        proxy.port = runner.addresses[0][1]
        ready.set()
        await done.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
