"""What is sent on one connection, and how a request is put together by the byte."""

from __future__ import annotations

from dataclasses import dataclass

KEY = b"{KEY}"
"""Stands where the owner's key goes."""


@dataclass(frozen=True)
class Case:
    """What is sent on one connection. `whole`: it is a request to its end, so that it must be answered; else an
    answer may come or not. `expects`: what stands in the answer's body. `reads`: so many bytes of the answer are
    read by one who leaves before its end."""

    kind: str
    data: bytes
    whole: bool = True
    method: str = "POST"
    expects: bytes = b""
    reads: int = 0


def request(
    path: str | bytes,
    body: bytes = b"",
    *lines: bytes,
    method: str = "POST",
    kind: str,
    whole: bool = True,
    **own: bytes,
) -> Case:
    """A request with the owner's key; `lines` beside its usual headers, `own` in their stead (empty: none)."""
    usual = {
        "host": b"localhost",
        "authorization": b"Bearer " + KEY,
        "content-type": b"application/json",
        "cache-control": b"no-store",
        "content-length": str(len(body)).encode(),
    } | {name.replace("_", "-"): value for name, value in own.items()}
    target = path if isinstance(path, bytes) else path.encode()
    head = [b"%s %s HTTP/1.1" % (method.encode(), target)]
    head += [b"%s: %s" % (name.encode(), value) for name, value in usual.items() if value]
    return Case(kind, b"\r\n".join([*head, *lines, b"", body]), whole, method)
