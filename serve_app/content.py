"""What messages may hold: text and images, each in one form, before anybody else reads them.

No engine ever sees a URL, nor a field of a part that is not written here: vLLM fetches what it finds under
`image_url`, also in a part that calls itself text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.profile import Limits
from deployments.contract import ChatError, ChatRequest, invalid
from deployments.timing import within
from serve_app.fetching import Fetcher, Refused, TooLarge
from serve_app.images import MEDIA_TYPES, as_data_url, from_data_url, no_room, too_many_bytes

URL_REFUSED = "image_url_refused"

TEXTS = ("text", "input_text", "output_text", None)
"""As what a part of text comes, in this API and in its neighbours; also as a mere string."""

IMAGES = ("image_url", "input_image")
DETAILS = ("auto", "low", "high")


@dataclass
class ImagePart:
    """An image of a message. `where`: its place, for errors. `detail`: how closely it is to be looked at."""

    url: str
    where: str
    detail: dict[str, str] = field(default_factory=dict)

    def as_part(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.url, **self.detail}}


Part = dict[str, Any] | ImagePart


class Contents:
    """Checks the contents of requests, within a profile's limits. `fetcher`: a test's own."""

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None) -> None:
        self._limits = limits
        self._fetcher = None
        if limits.image_urls:
            self._fetcher = fetcher or Fetcher(limits.image_bytes, MEDIA_TYPES)

    async def checked(self, request: ChatRequest) -> ChatRequest:
        """The request with every part in its one form and every image in it. Raises a 400 or 413 `ChatError`."""
        parts: dict[int, list[Part]] = {
            at: [_read(part, f"messages[{at}].content[{n}]") for n, part in enumerate(message["content"])]
            for at, message in enumerate(request.messages)
            if isinstance(message.get("content"), list)
        }
        if not parts:
            return request
        await self._bring_in([part for of_one in parts.values() for part in of_one if isinstance(part, ImagePart)])
        written = {
            at: [part.as_part() if isinstance(part, ImagePart) else part for part in of_one]
            for at, of_one in parts.items()
        }
        messages = [
            {**message, "content": written[at]} if at in written else message
            for at, message in enumerate(request.messages)
        ]
        return request.model_copy(update={"messages": messages})

    async def _bring_in(self, images: list[ImagePart]) -> None:
        """Make a checked data URL of each image's URL."""
        if len(images) > self._limits.images:
            raise invalid(
                f"The request holds {len(images)} images; the limit is {self._limits.images}.",
                param="messages",
                code="too_many_images",
            )
        inline = [image for image in images if image.url[:5].lower() == "data:"]
        named = [image for image in images if image.url[:5].lower() != "data:"]
        for image in named:
            self._may_be_fetched(image)
        for image in inline:
            image.url = await asyncio.to_thread(from_data_url, image.url, self._limits, image.where)
        if self._fetcher is None or not named:
            return
        taken = sum(len(image.url) for image in inline)
        try:
            await within(self._fetch(self._fetcher, named, taken), self._limits.image_seconds)
        except TimeoutError:
            raise invalid(
                f"The images of this request were not there within {self._limits.image_seconds:g} s.",
                param="messages",
                code=URL_REFUSED,
            ) from None

    def _may_be_fetched(self, image: ImagePart) -> None:
        if not image.url.lower().startswith(("http://", "https://")):
            raise refused(image, "only data URLs and addresses of the web (http, https) are read")
        if self._fetcher is None:
            raise refused(
                image,
                "images by URL are switched off here. Send a data URL (`data:image/png;base64,…`), or have the "
                "owner set `limits: {image_urls: true}` in the profile",
            )

    async def _fetch(self, fetcher: Fetcher, named: list[ImagePart], taken: int) -> None:
        """One after the other. `taken`: characters of the request's other images; together they may take what they
        could have taken in a body."""
        for image in named:
            try:
                data = await fetcher.fetch(image.url)
            except Refused as why:
                raise refused(image, str(why)) from None
            except TooLarge:
                raise too_many_bytes(self._limits, image.where) from None
            image.url = await asyncio.to_thread(as_data_url, data, self._limits, image.where)
            taken += len(image.url)
            if taken > self._limits.body_bytes:
                raise no_room(self._limits)


def refused(image: ImagePart, why: str) -> ChatError:
    """A 400: its URL is not fetched."""
    return invalid(f"{image.where}: this URL is not fetched: {why}.", param="messages", code=URL_REFUSED)


def _read(part: Any, where: str) -> Part:
    """A part in its one form, with nothing else in it. Raises a 400 `ChatError` for one that nobody here reads."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(part, Mapping) or kind not in (*TEXTS, *IMAGES, "refusal"):
        raise invalid(
            f"{where} is of type {str(kind)[:40]!r}, which nothing here reads; `text` and `image_url` are.",
            param="messages",
            code="unsupported_modality",
        )
    if kind in IMAGES:
        return _image(part, where)
    name = "refusal" if kind == "refusal" else "text"
    if not isinstance(part.get(name), str):
        raise invalid(f"{where}.{name} must be a string.", param="messages")
    return {"type": name, name: part[name]}


def _image(part: Mapping[str, Any], where: str) -> ImagePart:
    """`{"image_url": {"url": …, "detail": …}}`, or both beside each other, as the Responses API has them."""
    given = part.get("image_url")
    given = given if isinstance(given, Mapping) else {"url": given, "detail": part.get("detail")}
    if not isinstance(given.get("url"), str):
        raise invalid(f"{where}.image_url.url must be a string.", param="messages")
    detail = given.get("detail")
    return ImagePart(given["url"], where, {"detail": detail} if detail in DETAILS else {})
