"""What `groupqwen top` asks the endpoint. A part that is not to be had is None, and the rest is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from groupqwen.stack.deploy import http
from groupqwen.top.counters import Scraped, read_metrics

ANSWER_SECONDS = 10.0
SLOWLY_SECONDS = 15.0
"""What costs the database a sum over the day is asked for no more often than this."""


class Lost(Exception):
    """Nobody answers there now."""


class Refused(Exception):
    """The key is not taken; the message is the endpoint's."""


@dataclass(frozen=True)
class Reading:
    """One look. `at` is monotonic time, `wall` Unix time, seconds."""

    at: float
    wall: float
    health: dict[str, Any]
    models: list[dict[str, Any]] | None = None
    metrics: Scraped | None = None
    cache: dict[str, Any] | None = None
    today: dict[str, Any] | None = None
    """The row of `/v1/usage` for today: of all keys where this one is an admin's, else of this key."""
    sees_all: bool = False
    canary: dict[str, Any] | None = None


class Sources:
    """One endpoint, asked with one key. The scope `chat` is enough."""

    def __init__(self, endpoint: str, key: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._today: dict[str, Any] | None = None
        self._asked_slowly = float("-inf")

    def read(self) -> Reading:
        """Everything, as it is now. Raises `Lost`, and `Refused` where the key may not look."""
        health = self._health()
        models = _json(self._ask("/models"))
        rollout = self._answer("/rollout")
        return Reading(
            at=time.monotonic(),
            wall=time.time(),
            health=health,
            # The first is `auto`, which is no variant.
            models=None if models is None else models["data"][1:],
            metrics=_metrics(self._ask("/metrics")),
            cache=_json(self._ask("/cache/stats")),
            today=self._spent_today(),
            sees_all=rollout is not None and rollout.status_code == 200,
            canary=_json(rollout),
        )

    def _health(self) -> dict[str, Any]:
        try:
            answer = self._get("/health")
            said = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Lost(f"{self.endpoint} does not answer") from error
        if not isinstance(said, dict) or "status" not in said:
            # (While no Gateway is there, HAProxy says so.)
            raise Lost(f"{self.endpoint} answers {answer.status_code} and no health")
        return said

    def _spent_today(self) -> dict[str, Any] | None:
        if time.monotonic() - self._asked_slowly >= SLOWLY_SECONDS:
            usage = _json(self._ask("/usage?by=day&days=1"))
            if usage is not None:
                self._today = next(iter(usage["rows"]), {})
                self._asked_slowly = time.monotonic()
        return self._today

    def _ask(self, path: str) -> httpx.Response | None:
        """Raises `Refused`."""
        answer = self._answer(path)
        # (What is for admins only is left out for others.)
        if answer is not None and (answer.status_code == 401 or (answer.status_code == 403 and path == "/models")):
            raise Refused(_message(answer))
        return answer

    def _answer(self, path: str) -> httpx.Response | None:
        try:
            return self._get(path)
        except httpx.HTTPError:
            return None

    def _get(self, path: str) -> httpx.Response:
        return http().get(self.endpoint + path, headers=self._headers, timeout=ANSWER_SECONDS)


def _json(answer: httpx.Response | None) -> Any:
    try:
        return None if answer is None or answer.status_code != 200 else answer.json()
    except ValueError:
        return None


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {answer.status_code}"


def _metrics(scraped: httpx.Response | None) -> Scraped | None:
    try:
        return None if scraped is None or scraped.status_code != 200 else read_metrics(scraped.text)
    except ValueError:
        return None
