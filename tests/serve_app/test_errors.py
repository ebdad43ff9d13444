"""Which errors the OpenAPI document tells of each route."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from serve_app.errors import ERRORS
from serve_app.file_routes import JsonLines
from serve_app.gateway import api

OF_ALL = {"200", "422", *map(str, ERRORS)}
JOBS, FILES, ADAPTERS = "/v1/fine_tuning/jobs", "/v1/files", "/v1/adapters"


@pytest.mark.parametrize(
    ("route", "statuses"),
    [
        ("post /v1/finetune/start", {"409", "507"}),
        (f"post {JOBS}", {"409", "507"}),
        ("post /v1/finetune/{job_id}/resume", {"409"}),
        (f"post {JOBS}/{{job_id}}/resume", {"409"}),
        (f"get {JOBS}", set()),
        (f"post {FILES}", {"507"}),
        (f"get {FILES}/{{file_id}}/content", {"206", "416"}),
        (f"get {ADAPTERS}/{{name}}", {"409"}),
        (f"post {ADAPTERS}/{{name}}/promote", {"409", "507"}),
        (f"post {ADAPTERS}/{{name}}/demote", {"409", "507"}),
        (f"delete {ADAPTERS}/{{name}}", {"409", "507"}),
        ("post /v1/models/{model_id}/load", {"409"}),
        ("post /v1/models/{model_id}/pin", {"409"}),
    ],
)
def test_the_document_tells_what_a_route_may_answer(route: str, statuses: set[str]) -> None:
    method, path = route.split()
    responses: dict[str, Any] = api.openapi()["paths"][path][method]["responses"]
    assert responses.keys() - OF_ALL == statuses
    assert responses.keys() >= set(map(str, ERRORS)), "and those of all"


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [("bytes=0-1", 206, b"ab"), ("bytes=9-", 416, None), ("bytes=x-y", 400, None), ("lines=1-", 400, None)],
)
def test_a_wrong_range_is_told_as_any_other_error(
    tmp_path: Path, asked: str, status: int, body: bytes | None
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"abc")

    async def send_it(_: Any) -> JsonLines:
        return JsonLines(tmp_path / "a.jsonl")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=[Route("/", send_it)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return await client.get("/", headers={"range": asked})

    answer = asyncio.run(ask())
    assert answer.status_code == status
    if body is None:
        assert answer.json()["error"]["code"] == "no_such_range"
        assert answer.headers.get("content-range") == ("bytes */3" if status == 416 else None)
    else:
        assert answer.content == body
