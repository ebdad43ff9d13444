from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.profile import Limits
from deployments.contract import ChatError
from serve_app.images import as_data_url, from_data_url, media_type
from tests.serve_app.pictures import bomb, data_url, picture

LIMITS = Limits.model_validate({"image_bytes": 2000, "image_pixels": 100})


def refusal(url: str) -> tuple[int, str | None]:
    with pytest.raises(ChatError) as refused:
        from_data_url(url, LIMITS, "messages[3].content[1]")
    assert refused.value.message.startswith("messages[3].content[1]: ")
    assert refused.value.param == "messages"
    return refused.value.status, refused.value.code


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "MPO"])
def test_what_it_is_its_header_says(kind: str) -> None:
    media = "image/jpeg" if kind == "MPO" else f"image/{kind.lower()}"
    assert media_type(picture(kind), LIMITS, "x") == media
    for called in ("image/png", "IMAGE/PNG", "image/jpg"):
        assert from_data_url(data_url(picture(kind), called), LIMITS, "x") == data_url(picture(kind), media)
    assert as_data_url(picture(kind), LIMITS, "x") == data_url(picture(kind), media)


@pytest.mark.parametrize(
    "url",
    [
        "data:,",
        "data:image/png,AAAA",
        "data:image/png;charset=utf-8;base64,AAAA",
        data_url(picture(), "image/svg+xml"),
        data_url(picture(), "text/html"),
        data_url(picture("TIFF"), "image/png"),
        data_url(picture("BMP"), "image/png"),
        data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        data_url(b""),
        data_url(picture()[:20]),
        data_url(picture()) + "!",
        data_url(picture()) + "é",
        data_url(picture()).replace("base64,", "base64,\n"),
        "data:image/png;base64,A",
    ],
)
def test_what_is_no_image(url: str) -> None:
    assert refusal(url) == (400, "invalid_image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_too_many_pixels(kind: str) -> None:
    assert from_data_url(data_url(picture(kind, (10, 10))), LIMITS, "x")
    assert refusal(data_url(picture(kind, (10, 11)))) == (413, "image_too_large")


def test_too_many_bytes() -> None:
    room = LIMITS.image_bytes - len(picture())
    assert from_data_url(data_url(picture() + b"\0" * room), LIMITS, "x")
    for more in (1, 2, 3, 10_000):
        assert refusal(data_url(picture() + b"\0" * (room + more))) == (413, "image_too_large")


@pytest.mark.parametrize("size", [(50_000, 50_000), (13_000, 13_000), (2**31 - 1, 1)])
def test_a_bomb_is_not_unpacked(size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data_url(bomb(*size))) == (413, "image_too_large")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 50_000, "a tenth of the smallest of them, decoded"


def test_a_large_webp_is_not_unpacked() -> None:
    # Its canvas, in the header of the extended form: 16,383 × 16,383 pixels, a gigabyte.
    chunk = b"VP8X" + (10).to_bytes(4, "little") + b"\x02\0\0\0" + (16382).to_bytes(3, "little") * 2
    file = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data_url(file, "image/webp")) == (413, "image_too_large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), st.data())
def test_whatever_a_file_holds_it_is_an_image_or_refused(kind: str, data: st.DataObject) -> None:
    file = bytearray(picture(kind))
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=8)):
        file[at] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        assert media_type(cut, LIMITS, "x").startswith("image/")
    except ChatError as error:
        assert error.code in ("invalid_image", "image_too_large")
