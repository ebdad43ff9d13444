"""What becomes of images, and of what asks for a fetch, on a profile that reads text only."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.integration.conftest import MIDDLE, Stack
from tests.serve_app.pictures import bomb, data_url, picture, serving

PICTURE = data_url(picture())


def asking(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 2, "model": "auto"}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


BEYOND = [
    ([image(data_url(picture() + b"\0" * (11 * 2**20)))], 413, "image_too_large"),
    ([image(data_url(bomb(50_000, 50_000)))], 413, "image_too_large"),
    ([image(PICTURE)] * 17, 400, "too_many_images"),
    ([image("data:image/png;base64,AAAA")], 400, "invalid_image"),
    ([image("https://example.com/a.png")], 400, "image_url_refused"),
    ([image("file:///etc/passwd")], 400, "image_url_refused"),
    ([{"type": "input_audio", "input_audio": {"data": "AA"}, "text": "Hi"}], 400, "unsupported_modality"),
    ([image(PICTURE)], 400, "unsupported_modality"),
]


@pytest.mark.parametrize(("parts", "status", "code"), BEYOND)
def test_a_limit_has_its_answer_on_every_way_in(
    stack: Stack, parts: list[dict[str, Any]], status: int, code: str
) -> None:
    body = asking({"type": "text", "text": "What is this?"}, *parts)
    for path, more in (("/chat/completions", {}), ("/chat/completions", {"stream": True}), ("/route", {})):
        refused = stack.post(path, {**body, **more})
        assert error(refused) == (status, code), (path, refused.text)
        assert refused.json()["error"]["param"] == "messages"
    url = stack.url.replace("http://", "ws://") + "/chat/ws"
    with connect(url, additional_headers=stack.headers, max_size=None) as socket:
        socket.send(json.dumps(body))
        assert json.loads(socket.recv(timeout=60))["error"]["code"] == code
        socket.send(json.dumps(asking("Hi")))
        while "choices" not in (message := json.loads(socket.recv(timeout=60))):
            assert message == {"type": "done"}, "the socket lives on"


async def test_nothing_in_a_request_makes_the_machine_fetch_anything(stack: Stack) -> None:
    async with serving({}) as inside, httpx.AsyncClient(headers=stack.headers, timeout=120) as client:
        url = f"http://127.0.0.1:{inside.port}/"
        smuggled = {"uuid": "1", "image_url": url, "video_url": {"url": url}, "audio_url": url}
        for part in (
            image(url),
            {"type": "input_image", "image_url": url},
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "text", "text": "Hi", **smuggled},
            smuggled,
        ):
            answered = await client.post(f"{stack.url}/chat/completions", json=asking(part))
            assert answered.status_code in (200, 400), answered.text
        assert inside.asked == []


def test_a_part_may_be_a_mere_string(stack: Stack) -> None:
    answered = stack.post("/chat/completions", {**asking("Say yes."), "model": MIDDLE, "max_tokens": 4})
    assert answered.status_code == 200, answered.text
