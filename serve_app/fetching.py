"""Fetching what a stranger's URL names, without reaching anything that is not everybody's.

A name is resolved once, all of its addresses must be public, and the connection goes to one of exactly these:
asking twice would let the name's owner answer something else the second time. A redirect is a new URL, looked at
like the first. Of what a server says nothing gets into an error.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpx
import psutil

from serve_app.addresses import Address, is_public, networks_of

MAX_REDIRECTS = 3
MAX_URL_CHARS = 4096
AT_ONCE = 16
"""Fetches of one Gateway at the same time; others wait for their turn."""

CONNECT_SECONDS = 5.0
"""For one address; then the name's next one is tried."""

RESOLVING = 4
"""Threads that ask for names: one that hangs holds up nothing else of the Gateway."""

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,126}\.?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)

Place = tuple[Address, int]
Resolve = Callable[[str, int], Awaitable[list[Place]]]


class Refused(Exception):
    """Why nothing is fetched, in words for the one who asked."""


class TooLarge(Exception):
    """More came than may."""


def destination(url: str) -> httpx.URL:
    """A URL that may be asked, as far as one can see from it. Raises `Refused`."""
    if len(url) > MAX_URL_CHARS:
        raise Refused(f"it is longer than {MAX_URL_CHARS} characters")
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
        raise Refused("it is no URL") from None
    if parsed.scheme not in _PORTS:
        raise Refused("only http and https are fetched")
    if parsed.userinfo:
        raise Refused("it holds a name or a password")
    if parsed.port not in (None, *_PORTS.values()):
        raise Refused("only the ports 80 and 443 are asked")
    # `127.1`, `2130706433`, `0x7f.1`: addresses to some readers, names to others.
    if not _is_address(host):
        if not _NAME.fullmatch(host):
            raise Refused("it names no host")
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise Refused("its host is a number, and not an address in its usual form")
    return parsed


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def everybodys(address: Address) -> bool:
    """Whether it is public, and in no network of this machine."""
    return is_public(address) and not any(address in one for one in networks_of(psutil.net_if_addrs()))


class Fetcher:
    """Fetches files of at most `max_bytes` bytes. `resolve`, `allowed` and `tls` are for tests, whose server is on
    loopback: where a name leads (addresses, with the ports to connect to), whether an address may be connected to,
    and whose certificates are trusted."""

    def __init__(
        self,
        max_bytes: int,
        media_types: frozenset[str],
        *,
        resolve: Resolve | None = None,
        allowed: Callable[[Address], bool] = everybodys,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._max_bytes, self._media_types = max_bytes, media_types
        self._resolve = resolve or self._ask_resolver
        self._allowed = allowed
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._resolvers = ThreadPoolExecutor(RESOLVING, "resolver")

    async def fetch(self, url: str) -> bytes:
        """The file. Has no end of its own in time. Raises `Refused`, `TooLarge`."""
        async with self._turns:
            asked = destination(url)
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._ask(asked)
                if isinstance(answer, bytes):
                    return answer
                asked = answer
        raise Refused(f"it redirects more than {MAX_REDIRECTS} times")

    async def _ask(self, url: httpx.URL) -> bytes | httpx.URL:
        """The file, or where to ask instead."""
        for address, port in await self._places(url):
            try:
                return await self._ask_at(url, address, port)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL, OSError):
                break
        raise Refused("its server does not answer")

    async def _places(self, url: httpx.URL) -> list[Place]:
        try:
            places = await self._resolve(url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        except (OSError, ValueError):  # (UnicodeError, of a label too long, is a ValueError.)
            places = []
        # (One answer for a name that is not there and one that leads inside: which there are is not told.)
        if not places or not all(self._allowed(address) for address, _ in places):
            raise Refused("its host has no public address")
        return places

    async def _ask_resolver(self, host: str, port: int) -> list[Place]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys((ip_address(place[0]), port) for *_, place in found))

    async def _ask_at(self, url: httpx.URL, address: Address, port: int) -> bytes | httpx.URL:
        headers = {
            "host": url.netloc.decode("ascii"),
            "accept": ", ".join(sorted(self._media_types)),
            "accept-encoding": "identity",
            "user-agent": "GroupQwen",
        }
        pinned = url.copy_with(host=str(address), port=port)
        name = {"sni_hostname": url.raw_host.decode("ascii")}
        # A client for each: a kept connection is known by its address, and would serve another name of that one;
        # kept cookies would be everybody's. The time is the caller's to limit.
        async with (
            httpx.AsyncClient(
                verify=self._tls,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            ) as client,
            client.stream("GET", pinned, headers=headers, extensions=name) as response,
        ):
            if response.has_redirect_location:
                return destination(str(url.join(response.headers["location"])))
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200 or kind not in self._media_types:
                raise Refused("its server does not answer with an image")
            return await self._whole(response)

    async def _whole(self, response: httpx.Response) -> bytes:
        """Its bytes as they come: what is compressed is not unpacked, and so is no image."""
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > self._max_bytes:
                raise TooLarge
        return bytes(data)
