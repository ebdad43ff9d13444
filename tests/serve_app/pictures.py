"""Small images, and a server on loopback that gives them away."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image

NAME = "pictures.example"
HEARD_SECONDS = 120


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
    """An image file of one colour."""
    file = BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def answer(body: bytes, kind: str = "image/png", status: str = "200 OK", *headers: str) -> bytes:
    """A whole HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def moved(to: str) -> bytes:
    return answer(b"secret", "text/plain", "302 Found", f"location: {to}")


@dataclass
class Pictures:
    """A server that says what `pages` holds, and keeps what it was `asked`, and for whom in TLS (`names`). A page
    that is None never ends."""

    port: int
    pages: Mapping[str, bytes | None]
    asked: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def has_heard(self, requests: int) -> None:
        """Raises `TimeoutError` where they do not come."""
        async with asyncio.timeout(HEARD_SECONDS), self.came:
            await self.came.wait_for(lambda: len(self.asked) >= requests)


@asynccontextmanager
async def serving(pages: Mapping[str, bytes | None], tls: ssl.SSLContext | None = None) -> AsyncIterator[Pictures]:
    served = Pictures(0, pages)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        async with served.came:
            served.asked.append(head)
            served.came.notify_all()
        body = served.pages[head.split(" ")[1]]
        try:
            if body is None:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
                while True:
                    writer.write(b"x" * 64)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            writer.write(body)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    if tls is not None:
        tls.sni_callback = lambda _, name, __: served.names.append(name)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    async with server:
        yield served


def certificate(folder: Path, name: str = NAME) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS for this name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=made.public_bytes(Encoding.PEM).decode())
