from __future__ import annotations

import asyncio
import gzip
from ipaddress import ip_address
from pathlib import Path

import pytest

from serve_app.addresses import Address, is_public
from serve_app.fetching import Fetcher, Place, Refused, TooLarge, destination, everybodys
from serve_app.images import MEDIA_TYPES
from tests.serve_app.pictures import NAME, Pictures, answer, certificate, moved, picture, serving

HERE = ip_address("127.0.0.1")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has more to do, sixteen connections at once took longer than the time for one."""
    monkeypatch.setattr("serve_app.fetching.CONNECT_SECONDS", 60.0)


def only_here(address: Address) -> bool:
    """In place of `everybodys`: the test's own server, and what is public."""
    return address == HERE or is_public(address)


class Names:
    """In place of the resolver: `places` by name, one after the other; the last one stays."""

    def __init__(self, **places: list[list[Place]]) -> None:
        self.places = {name.replace("_", "."): list(answers) for name, answers in places.items()}
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[Place]:
        self.asked.append((host, port))
        answers = self.places.get(host)
        if answers is None:
            return [(ip_address(host), port)]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(names: Names, **options: object) -> Fetcher:
    return Fetcher(2000, MEDIA_TYPES, resolve=names, allowed=only_here, **options)  # type: ignore[arg-type]


def names_of(served: Pictures) -> Names:
    return Names(pictures_example=[[(HERE, served.port)]])


async def why(fetching: Fetcher, url: str) -> str:
    with pytest.raises(Refused) as refused:
        await fetching.fetch(url)
    return str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "ftp://pictures.example/a.png",
        "gopher://127.0.0.1:6379/_INFO",
        "unix:///run/redis.sock",
        "http:///etc/passwd",
        "http:a.png",
        "http://user@pictures.example/",
        "http://user:password@pictures.example/",
        "http://pictures.example\\@127.0.0.1/",
        "http://pictures.example:8000/",
        "http://pictures.example:0/",
        "https://pictures.example:6379/",
        "http://pictures.example:80:80/",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.0.0.1./",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.0x1/",
        "http://017700000001/",
        "http://0177.0.0.01/",
        "http://127.0.0.08/",
        "http://%31%32%37.0.0.1/",
        "http://pictures.example%00.a/",
        "http://pic tures.example/",
        "http://pictures..example/",
        "http://[::1",
        "http://pictures.example/\r\nhost: a",
        "http://pictures.example/" + "a" * 5000,
        "http://" + "a" * 64 + ".example/",
        "",
        "http://",
    ],
)
async def test_what_is_not_even_looked_up(url: str) -> None:
    names = Names()
    assert await why(fetcher(names), url)
    assert names.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://127.0.0.1/",
        "http://127。0。0。1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fe80::1%25lo]/",
        "http://localhost/",
        "http://localhost./",
        "https://localhost:443/",
        "http://nothing.invalid/",
    ],
)
async def test_the_real_resolver_and_the_real_rule_let_nothing_inside(url: str) -> None:
    assert await why(Fetcher(2000, MEDIA_TYPES), url) == "its host has no public address"


async def test_a_file_comes_over_https_from_the_address_under_its_name(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    async with serving({"/a.png?b=1": answer(picture())}, server) as served:
        names = names_of(served)
        assert await fetcher(names, tls=client).fetch(f"https://{NAME}/a.png?b=1#c") == picture()
        assert names.asked == [(NAME, 443)], "once"
        assert served.names == [NAME]
        (head,) = served.asked
        said = head.lower().split("\r\n")
        assert f"host: {NAME}" in said
        assert "accept-encoding: identity" in said
        assert not any(line.startswith(("cookie", "authorization", "referer")) for line in said)


async def test_a_certificate_of_another_name_is_none(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "other.example")
    async with serving({"/": answer(picture())}, server) as served:
        assert await why(fetcher(names_of(served), tls=client), f"https://{NAME}/") == "its server does not answer"
        assert served.asked == []


async def test_a_name_that_leads_inside_the_second_time_is_asked_once() -> None:
    async with serving({"/": answer(picture())}) as served, serving({"/": answer(b"secret")}) as inside:
        names = Names(pictures_example=[[(HERE, served.port)], [(ip_address("127.0.0.2"), inside.port)]])
        assert await fetcher(names).fetch(f"http://{NAME}/") == picture()
        assert names.asked == [(NAME, 80)]
        assert await why(fetcher(names), f"http://{NAME}/") == "its host has no public address"
        assert inside.asked == []


async def test_one_inside_address_among_public_ones_is_enough() -> None:
    async with serving({"/": answer(picture())}) as served:
        names = Names(pictures_example=[[(HERE, served.port), (ip_address("10.0.0.1"), 80)]])
        assert await why(fetcher(names), f"http://{NAME}/") == "its host has no public address"
        assert served.asked == []


async def test_an_address_that_does_not_answer_is_passed_over() -> None:
    async with serving({"/": answer(picture())}) as served, serving({}) as gone:
        pass
    async with serving({"/": answer(picture())}) as served:
        names = Names(pictures_example=[[(HERE, gone.port), (HERE, served.port)]])
        assert await fetcher(names).fetch(f"http://{NAME}/") == picture()
        nobody = Names(pictures_example=[[(HERE, gone.port)]])
        assert await why(fetcher(nobody), f"http://{NAME}/") == "its server does not answer"


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://10.0.0.1/", "its host has no public address"),
        ("http://[::ffff:127.0.0.1]/", "its host has no public address"),
        ("http://inside.example/", "its host has no public address"),
        ("//169.254.169.254/latest/", "its host has no public address"),
        ("file:///etc/passwd", "only http and https are fetched"),
        (f"http://{NAME}:8000/", "only the ports 80 and 443 are asked"),
        ("http://127.1/", "its host is a number, and not an address in its usual form"),
        (f"http://a:b@{NAME}/", "it holds a name or a password"),
        ("/", "it redirects more than 3 times"),
    ],
)
async def test_a_redirect_is_looked_at_like_the_first_url(to: str, said: str) -> None:
    async with serving({"/": moved(to)}) as served:
        names = names_of(served)
        names.places["inside.example"] = [[(ip_address("192.168.1.1"), 80)]]
        told = await why(fetcher(names), f"http://{NAME}/")
        assert told == said
        assert "secret" not in told


async def test_a_redirect_to_what_may_be_asked_is_followed() -> None:
    pages = {"/": moved("/b"), "/b": moved(f"http://{NAME}/c"), "/c": moved("d.png"), "/d.png": answer(picture())}
    async with serving(pages) as served:
        names = names_of(served)
        assert await fetcher(names).fetch(f"http://{NAME}/") == picture()
        assert len(served.asked) == len(names.asked) == 4, "each is resolved anew"


@pytest.mark.parametrize(
    "page",
    [
        answer(b"secret", "text/html"),
        answer(b"<svg>secret</svg>", "image/svg+xml"),
        answer(b"secret", "image/png", "500 secret"),
        answer(b"secret", "image/png", "404 secret"),
        answer(b"secret", "image/png", "206 secret"),
        answer(b"", "image/png", "302 Found"),
        b"secret\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\nsecret",
        b"HTTP/1.1 200 OK\r\n" + b"x-secret: secret\r\n" * 20_000 + b"\r\n",
        answer(b"secret", "text/plain", "302 Found", "location: http://[secret"),
    ],
)
async def test_of_what_a_server_says_nothing_is_told(page: bytes) -> None:
    async with serving({"/": page}) as served:
        told = await why(fetcher(names_of(served)), f"http://{NAME}/")
        assert told in (
            "its server does not answer",
            "its server does not answer with an image",
            "it names no host",
        )


async def test_too_large_a_file_is_not_read_to_its_end() -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + b"x" * 100_000
    async with serving({"/": answer(b"x" * 2001), "/endless": endless, "/never": None}) as served:
        for path in ("/", "/endless", "/never"):
            with pytest.raises(TooLarge):
                await fetcher(names_of(served)).fetch(f"http://{NAME}{path}")


async def test_what_is_compressed_is_not_unpacked() -> None:
    packed = gzip.compress(b"\0" * 10_000_000)
    async with serving({"/": answer(packed, "image/png", "200 OK", "content-encoding: gzip")}) as served:
        small = Fetcher(len(packed), MEDIA_TYPES, resolve=names_of(served), allowed=only_here)
        assert await small.fetch(f"http://{NAME}/") == packed


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({"/": answer(picture())}) as served, serving({}) as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert await fetcher(names_of(served)).fetch(f"http://{NAME}/") == picture()
        assert proxy.asked == []


async def test_so_many_at_once_and_who_gives_up_makes_room() -> None:
    async with serving({"/never": None, "/": answer(picture())}) as served:
        patient = Fetcher(10**9, MEDIA_TYPES, resolve=names_of(served), allowed=only_here)
        waiting = [asyncio.create_task(patient.fetch(f"http://{NAME}/never")) for _ in range(16)]
        await served.has_heard(16)
        next_one = asyncio.create_task(patient.fetch(f"http://{NAME}/"))
        await asyncio.sleep(0.1)
        assert len(served.asked) == 16, "it waits for its turn"
        for task in waiting:
            task.cancel()
        assert await next_one == picture()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_what_may_be_asked() -> None:
    for url in (
        "https://pictures.example/a",
        "HTTP://Pictures.Example:443/a",
        "http://[2606:4700::1111]/",
        "http://1.1.1.1",
    ):
        assert destination(url).scheme in ("http", "https")
    assert destination("https://bücher.example/a").raw_host == b"xn--bcher-kva.example"


def test_the_machines_own_addresses_are_not_everybodys() -> None:
    assert everybodys(ip_address("8.8.8.8"))
    assert not everybodys(HERE)
