"""Images as they may come: a data URL with base64 of a PNG, JPEG, WebP or GIF, within the limits. Pure.

Looks at headers only: no pixel is decoded here.
"""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO

from PIL import Image

from configs.profile import Limits
from deployments.contract import ChatError, invalid

FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with more of them behind it, as phones make
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
"""Pillow's names → media types."""

MEDIA_TYPES = frozenset(FORMATS.values()) | {"image/jpg"}
"""What an image may be called; what it is, its own header says."""

INVALID_IMAGE = "invalid_image"
TOO_LARGE = "image_too_large"

_DATA_URL = re.compile(r"data:([a-z]{1,20}/[a-z0-9.+-]{1,80});base64,", re.IGNORECASE)
_READ = "PNG, JPEG, WebP and GIF are read"


def from_data_url(url: str, limits: Limits, where: str) -> str:
    """The data URL with the media type that the image has. `where` names it in errors. Raises `ChatError`."""
    head = _DATA_URL.match(url)
    if head is None or head[1].lower() not in MEDIA_TYPES:
        raise invalid(
            f"{where}: images are taken as data URLs of one form, `data:image/png;base64,…`; {_READ}.",
            param="messages",
            code=INVALID_IMAGE,
        )
    if (len(url) - head.end()) // 4 * 3 > limits.image_bytes + 2:
        raise too_many_bytes(limits, where)
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{where}: this is no base64.", param="messages", code=INVALID_IMAGE) from None
    return f"data:{media_type(data, limits, where)};base64,{url[head.end() :]}"


def as_data_url(data: bytes, limits: Limits, where: str) -> str:
    """An image file as a data URL. Raises `ChatError`."""
    return f"data:{media_type(data, limits, where)};base64,{base64.b64encode(data).decode()}"


def media_type(data: bytes, limits: Limits, where: str) -> str:
    """What an image file is, by its header. Raises `ChatError` for what is none, or is beyond the limits."""
    if len(data) > limits.image_bytes:
        raise too_many_bytes(limits, where)
    try:
        # Only these four readers get to see it: Pillow has sixty.
        with Image.open(BytesIO(data), formats=[name for name in FORMATS if name != "MPO"]) as image:
            (width, height), kind = image.size, FORMATS[image.format or ""]
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits, where) from None
    except Exception:  # Pillow's readers raise whatever a broken header makes of them.
        raise invalid(f"{where}: this is no image; {_READ}.", param="messages", code=INVALID_IMAGE) from None
    if width * height > limits.image_pixels:
        raise _too_many_pixels(limits, where)
    return kind


def too_many_bytes(limits: Limits, where: str) -> ChatError:
    """A 413."""
    return _too_large(f"{where}: the image holds more than {limits.image_bytes} bytes.")


def no_room(limits: Limits) -> ChatError:
    """A 413: each image is small enough, and all are too much."""
    return _too_large(f"The images of this request take more than {limits.body_bytes} bytes together, as base64.")


def _too_many_pixels(limits: Limits, where: str) -> ChatError:
    return _too_large(f"{where}: the image has more than {limits.image_pixels} pixels. Send a smaller one.")


def _too_large(message: str) -> ChatError:
    return ChatError(message, status=413, kind="invalid_request_error", code=TOO_LARGE, param="messages")
