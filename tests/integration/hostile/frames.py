"""WebSockets: messages, fragments and frames that RFC 6455 does not allow."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from tests.integration.hostile.bodies import CHAT, CHATS, documents, made_cheap, render, values
from tests.integration.hostile.case import KEY, Case
from tests.integration.hostile.heads import VALID

HANDSHAKE = (
    b"GET /v1/chat/ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)


def frame(opcode: int, data: bytes, *, last: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame of RFC 6455; the mask is zeros."""
    length = len(data)
    first = (0x80 if last else 0) | rsv << 4 | opcode
    mask = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask | length)
    elif length < 65_536:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    return head + (bytes(4) if masked else b"") + data


def goes_on_after_its_end(data: bytes) -> bool:
    """Whether more is sent behind a frame that ends the talk (a close, or what the RFC does not allow). Whoever is
    answered with a close then may miss it: what nobody reads makes the system reset the connection."""
    while len(data) >= 2:
        opcode, masked, length = data[0] & 0x0F, bool(data[1] & 0x80), data[1] & 0x7F
        size = 2 + {126: 2, 127: 8}.get(length, 0)
        if length > 125:
            length = int.from_bytes(data[2:size], "big")
        size += 4 if masked else 0
        body, rest = data[size : size + length], data[size + length :]
        ends = (
            opcode not in (0, 1, 2, 9, 10) or bool(data[0] & 0x70) or not masked or (opcode > 7 and length > 125)
        )
        if opcode == 1 and data[0] & 0x80:
            try:
                body.decode()
            except UnicodeDecodeError:
                ends = True
        if ends:
            return bool(rest)
        data = rest
    return False


def in_pieces(data: bytes, at: int) -> bytes:
    """A text message in three fragments with a ping between them."""
    return frame(1, data[:at], last=False) + frame(9, b"?") + frame(0, b"", last=False) + frame(0, data[at:])


messages = st.one_of(
    st.sampled_from(CHATS).flatmap(documents).map(lambda text: made_cheap(CHAT, text.encode("utf-8", "replace"))),
    st.sampled_from(CHATS).flatmap(documents).map(lambda text: made_cheap(CHAT, text.encode("utf-8", "replace"))),
    st.sampled_from([b'{"type": "cancel"}', b'{"type": "cancel", "a": 1}', b"[]", b"", b'{"api_key": 1}', VALID]),
    values.map(lambda value: render(value).encode("utf-8", "replace")),
)
frames = st.one_of(
    messages.map(lambda data: frame(1, data)),
    messages.map(lambda data: frame(1, data)),
    st.builds(in_pieces, messages, st.integers(0, 40)),
    st.binary(max_size=200).map(lambda data: frame(1, data)),
    st.binary(max_size=200).map(lambda data: frame(2, data)),
    st.binary(max_size=130).map(lambda data: frame(9, data)),
    st.builds(
        lambda opcode, rsv, masked, data: frame(opcode, data, rsv=rsv, masked=masked),
        st.integers(0, 15),
        st.integers(0, 7),
        st.booleans(),
        st.binary(max_size=20),
    ),
    st.binary(max_size=20),
    st.sampled_from(
        [frame(8, b""), frame(8, b"\x03"), frame(8, b"\x00\x00"), frame(8, b"\x03\xe8\xff"), frame(1, b"x")[:3]]
    ),
)
GREETINGS = [b"authorization: Bearer " + KEY + b"\r\n"] * 4 + [b"", b"", b"authorization: Bearer no\r\n"]
FIRST = [frame(1, b'{"api_key": "' + KEY + b'"}'), frame(1, b'{"api_key": null}'), frame(2, b"\x00"), b""]
socket_cases = st.builds(
    lambda greeting, first, sent: Case(
        "socket", HANDSHAKE % greeting + (b"" if greeting else first) + b"".join(sent)
    ),
    st.sampled_from(GREETINGS),
    st.sampled_from(FIRST),
    st.lists(frames, min_size=1, max_size=4),
)
