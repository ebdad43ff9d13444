from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from configs.profile import Limits
from deployments.contract import ChatError, ChatRequest
from serve_app.content import Contents
from serve_app.fetching import Fetcher, Place
from serve_app.images import MEDIA_TYPES
from tests.serve_app.pictures import NAME, Pictures, answer, bomb, data_url, picture, serving

IMAGE = data_url(picture())


def limits(**given: object) -> Limits:
    return Limits.model_validate({"images": 2, "image_bytes": 2000, "image_pixels": 100, **given})


def request(*parts: Any, role: str = "user") -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": role, "content": list(parts)}], "temperature": 0})


async def read(*parts: Any, contents: Contents | None = None) -> list[Any]:
    checked = await (contents or Contents(limits())).checked(request(*parts))
    assert checked.temperature == 0
    return list(checked.messages[0]["content"])


async def refusal(*parts: Any, contents: Contents | None = None) -> ChatError:
    with pytest.raises(ChatError) as refused:
        await read(*parts, contents=contents)
    assert refused.value.param == "messages"
    return refused.value


def image(url: Any = IMAGE, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **more}


async def test_text_in_all_its_forms_is_text() -> None:
    said = {"type": "text", "text": "Hi"}
    for form in ("Hi", said, {"text": "Hi"}, {"type": "input_text", "text": "Hi"}, {**said, "cache_control": {}}):
        assert await read(form) == [said]
    assert await read({"type": "refusal", "refusal": "No"}) == [{"type": "refusal", "refusal": "No"}]
    plain = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}]})
    assert await Contents(limits()).checked(plain) is plain


async def test_an_image_in_all_its_forms_is_an_image() -> None:
    assert await read(image()) == [image()]
    assert await read({"type": "image_url", "image_url": IMAGE}) == [image()]
    assert await read({"type": "input_image", "image_url": IMAGE}) == [image()]
    detailed = {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}
    assert await read({"type": "input_image", "image_url": IMAGE, "detail": "low"}) == [detailed]
    assert await read({"type": "image_url", "image_url": {"url": IMAGE, "detail": ["x"]}}) == [image()]


async def test_a_part_holds_nothing_but_what_its_type_says() -> None:
    # With a `uuid` vLLM reads what stands under `image_url` whatever the type is.
    smuggled = {"uuid": "1", "image_url": "http://127.0.0.1:8265/", "video_url": {"url": "file:///etc/passwd"}}
    assert await read({"type": "text", "text": "Hi", **smuggled}) == [{"type": "text", "text": "Hi"}]
    assert await read({"text": "Hi", **smuggled}) == [{"type": "text", "text": "Hi"}]
    assert await read({"type": "refusal", "refusal": "No", **smuggled}) == [{"type": "refusal", "refusal": "No"}]
    assert await read({**image(), "uuid": "1", "video_url": "http://a.example/"}) == [image()]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}, "text": "Hi"},
        {"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/"}},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "input_file", "file_url": "http://127.0.0.1/"},
        {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": ["text"], "text": "Hi"},
        7,
        None,
        ["Hi"],
    ],
)
async def test_what_nobody_reads_is_refused_and_not_dropped(part: Any) -> None:
    refused = await refusal("Hi", part)
    assert (refused.status, refused.code) == (400, "unsupported_modality")
    assert "messages[0].content[1] is of type" in refused.message


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text"},
        {"type": "text", "text": 7},
        {"image_url": {"url": "http://127.0.0.1/"}},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": ["http://127.0.0.1/"]},
        {"type": "input_image", "file_id": "file-1"},
    ],
)
async def test_what_is_not_well_formed(part: Any) -> None:
    refused = await refusal(part)
    assert (refused.status, refused.message.endswith("must be a string.")) == (400, True)


async def test_images_have_limits_in_every_role() -> None:
    many = await refusal(image(), image(), image())
    assert (many.status, many.code) == (400, "too_many_images")
    none = await refusal(image(), contents=Contents(limits(images=0)))
    assert none.code == "too_many_images"
    large = await refusal("Hi", image(data_url(bomb(50_000, 50_000))))
    assert (large.status, large.code) == (413, "image_too_large")
    assert "messages[0].content[1]" in large.message
    with pytest.raises(ChatError, match=r"messages\[0\].content\[0\]: this is no image"):
        await Contents(limits()).checked(request(image(data_url(b"x")), role="tool"))


async def test_a_url_is_refused_with_the_way_to_switch_it_on() -> None:
    for url in ("http://pictures.example/a.png", "HTTPS://pictures.example/a.png", "http://127.0.0.1/"):
        refused = await refusal(image(url))
        assert (refused.status, refused.code) == (400, "image_url_refused")
        assert "limits: {image_urls: true}" in refused.message


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "ftp://a/", "gopher://a/", "", " data:,"])
async def test_what_is_no_address_of_the_web_is_refused_also_where_urls_are_on(url: str, on: bool) -> None:
    refused = await refusal(image(url), contents=Contents(limits(image_urls=on)))
    assert (refused.status, refused.code) == (400, "image_url_refused")
    assert "switched off" not in refused.message


def fetching(served: Pictures, **given: object) -> Contents:
    """Contents whose `pictures.example` is the test's server."""

    async def resolve(host: str, port: int) -> list[Place]:
        return [(ip_address("127.0.0.1"), served.port)] if host == NAME else [(ip_address("10.0.0.1"), port)]

    own = limits(image_urls=True, **given)
    here = ip_address("127.0.0.1")
    return Contents(
        own, Fetcher(own.image_bytes, MEDIA_TYPES, resolve=resolve, allowed=lambda address: address == here)
    )


async def test_what_was_fetched_is_a_data_url_from_then_on() -> None:
    pages = {"/a": answer(picture("WEBP"), "image/png"), "/page": answer(b"secret", "text/html")}
    pages |= {
        "/text": answer(b"secret", "image/png"),
        "/large": answer(b"x" * 2001),
        "/bomb": answer(bomb(11, 10)),
    }
    async with serving({**pages, "/never": None}) as served:
        contents = fetching(served)
        made = await read("Hi", image(), image(f"http://{NAME}/a"), contents=contents)
        assert made[1:] == [image(), image(data_url(picture("WEBP"), "image/webp"))]
        for path, status, code in (
            ("/page", 400, "image_url_refused"),
            ("/text", 400, "invalid_image"),
            ("/large", 413, "image_too_large"),
            ("/bomb", 413, "image_too_large"),
        ):
            refused = await refusal(image(f"http://{NAME}{path}"), contents=contents)
            assert (refused.status, refused.code) == (status, code)
            assert "secret" not in refused.message
        inside = await refusal(image("http://inside.example/"), contents=contents)
        assert (inside.code, "no public address" in inside.message) == ("image_url_refused", True)


async def test_fetching_has_an_end_in_time() -> None:
    async with serving({"/never": None}) as served:
        contents = fetching(served, image_seconds=0.2, image_bytes=10**9)
        refused = await refusal(image(f"http://{NAME}/never"), contents=contents)
        assert (refused.status, refused.code) == (400, "image_url_refused")
        assert "within 0.2 s" in refused.message


async def test_fetched_images_have_no_more_room_than_a_body() -> None:
    async with serving({"/a": answer(picture() + b"\0" * 1000)}) as served:
        room = len(data_url(picture() + b"\0" * 1000))
        named = image(f"http://{NAME}/a")
        assert await read(named, contents=fetching(served, body_bytes=room))
        refused = await refusal(named, named, contents=fetching(served, body_bytes=2 * room - 1))
        assert (refused.status, refused.code) == (413, "image_too_large")
