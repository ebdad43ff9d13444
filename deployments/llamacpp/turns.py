"""When a request's turn comes: who waits, and how long requests take here. Pure; the engine locks what counts."""

from __future__ import annotations

from collections import Counter

from deployments.llamacpp.generation import Generation

SMOOTHING = 0.2
READING = 8
"""Tokens of a prompt that are read in the time of one that is written, about."""


class Turns:
    """Of one engine that answers `parallel` requests at once."""

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self.waiting: Counter[str] = Counter()
        """Requests that wait, by tenant."""
        self.seconds_per_request = 1.0
        self._tokens_per_request = 64.0

    def comes(self, tenant: str) -> None:
        """One more waits."""
        self.waiting[tenant] += 1

    def goes(self, tenant: str) -> None:
        """One waits no more."""
        self.waiting[tenant] -= 1
        if not self.waiting[tenant]:
            del self.waiting[tenant]

    def took(self, seconds: float, tokens: int) -> None:
        """A request has ended, which wrote so many tokens."""
        self.seconds_per_request += SMOOTHING * (seconds - self.seconds_per_request)
        self._tokens_per_request += SMOOTHING * (tokens - self._tokens_per_request)

    def wait(self, ahead: int) -> float:
        """Seconds until one is served that has so many before it."""
        return (ahead + 1) / self._parallel * self.seconds_per_request

    def wait_of(self, tenant: str) -> float:
        """The same for a new one of this tenant. (Tenants take turns: of each other one, no more come before it
        than of its own.)"""
        own = self.waiting[tenant]
        return self.wait(sum(min(count, own + 1) for count in self.waiting.values()))

    def expected(self, generation: Generation) -> float:
        """Seconds that it is likely to take, once it has begun."""
        tokens = min(generation.max_tokens, self._tokens_per_request) + len(generation.prompt) / READING
        return tokens * self.seconds_per_request / max(1.0, self._tokens_per_request)
