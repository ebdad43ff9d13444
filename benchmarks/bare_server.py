"""Our llama.cpp engine behind a bare uvicorn, without Ray: what the composition is compared with.

For benchmarks only: no keys, no limits. `python -m benchmarks.bare_server --model FILE --port N`.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

from deployments.chunks import fold
from deployments.contract import ChatError, ChatRequest
from deployments.llamacpp.chat import ChatOptions, LlamaCppChat
from deployments.llamacpp.engine import EngineOptions


def application(chat: LlamaCppChat) -> FastAPI:
    """`/v1/chat/completions` and `/v1/models`, nothing else."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": chat.options.name, "object": "model"}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(body: ChatRequest) -> Response:
        steps = chat.chat(body, secrets.token_hex(8))
        if not body.stream:
            try:
                return JSONResponse(
                    fold([chunk async for chunks in steps for chunk in chunks]).model_dump(mode="json")
                )
            except ChatError as error:
                return JSONResponse(error.body(), error.status)

        async def frames() -> AsyncIterator[bytes]:
            try:
                async for chunks in steps:
                    for chunk in chunks:
                        data = chunk.model_dump(mode="json", exclude_unset=True)
                        yield b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
                yield b"data: [DONE]\n\n"
            except ChatError as error:
                yield b"data: " + json.dumps(error.body()).encode() + b"\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--context", type=int, default=8192, help="tokens that all requests share")
    args = parser.parse_args()
    options = EngineOptions(
        context=args.context, kv_tokens=args.context, parallel=args.parallel, threads=args.threads, max_queue=256
    )
    chat = LlamaCppChat(args.model, ChatOptions("bare", options))
    uvicorn.run(application(chat), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
