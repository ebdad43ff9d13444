"""Clients that leave in the middle: of the headers, of a body, of an answer."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import strategies as st

from tests.integration.conftest import SMALL
from tests.integration.hostile.bodies import CHAT, HELLO, TEXT
from tests.integration.hostile.case import KEY, Case, request
from tests.integration.hostile.frames import HANDSHAKE, frame
from tests.integration.hostile.heads import CHUNKED

LONGER = {"model": SMALL, "max_tokens": 40, "temperature": 0}
STREAMS = [
    request(CHAT, json.dumps({**LONGER, "messages": HELLO, "stream": True}).encode(), kind="leaves a stream"),
    request(CHAT, json.dumps({**LONGER, "messages": HELLO}).encode(), kind="leaves an answer"),
    request(TEXT, json.dumps({**LONGER, "prompt": "Once", "stream": True}).encode(), kind="leaves a completion"),
    Case(
        "leaves a socket",
        HANDSHAKE % (b"authorization: Bearer " + KEY + b"\r\n")
        + frame(1, json.dumps({**LONGER, "messages": HELLO}).encode()),
    ),
]
CHUNKS = CHUNKED + b"8\r\n" + b" " * 8 + b"\r\n" + b"4000\r\n" + b" " * 200

leaving_cases = st.one_of(
    st.builds(lambda case, reads: replace(case, reads=reads), st.sampled_from(STREAMS), st.integers(0, 6000)),
    st.builds(
        lambda case, part: Case("leaves its request", case.data[: int(len(case.data) * part)]),
        st.sampled_from(STREAMS),
        st.floats(0, 0.999),
    ),
    st.integers(len(CHUNKED) // 2, len(CHUNKS)).map(lambda n: Case("leaves a chunk", CHUNKS[:n])),
)
