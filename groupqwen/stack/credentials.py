"""Secrets of one installation: the services' passwords and the owner's own API key.

All in one file that only the owner can read. The Gateway never reads it: it knows keys by their hashes.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass

from configs.home import Home, home
from groupqwen.stack.problem import StartProblem
from serve_app.keys import create_key, hash_key, read_keys

KEY_VARIABLE = "GROUPQWEN_API_KEY"
SHORTEST_KEY = 20


@dataclass(frozen=True)
class Credentials:
    """`api_key` is the owner's, shown by `up` and `status`."""

    redis_password: str
    postgres_password: str
    ray_token: str
    api_key: str


def load_credentials(home: Home) -> Credentials:
    """Read the secrets, making what is missing; a key that was taken off the ring is made anew.

    `GROUPQWEN_API_KEY` in the environment is the owner's key, in the place of the one before. Raises
    `StartProblem` where it is too short.
    """
    try:
        stored = json.loads(home.credentials.read_text())
    except (FileNotFoundError, ValueError):
        stored = {}
    if not isinstance(stored, dict):
        stored = {}
    known = {key.sha256 for key in read_keys(home.keys)}
    given, before = os.environ.get(KEY_VARIABLE, "").strip(), stored.get("api_key", "")
    if given and len(given) < SHORTEST_KEY:
        raise StartProblem(
            f"{KEY_VARIABLE} is shorter than {SHORTEST_KEY} characters: `openssl rand -hex 24` makes one"
        )
    api_key = given or before
    if hash_key(api_key) not in known:
        _, api_key = create_key(home.keys, "owner", given or None, instead_of=hash_key(before))
    credentials = Credentials(
        redis_password=stored.get("redis_password") or secrets.token_urlsafe(24),
        postgres_password=stored.get("postgres_password") or secrets.token_urlsafe(24),
        ray_token=stored.get("ray_token") or secrets.token_hex(32),
        api_key=api_key,
    )
    if asdict(credentials) != stored:
        write_private(home.credentials, json.dumps(asdict(credentials), indent=1))
    return credentials


def remember_key(home: Home, before: str, secret: str) -> None:
    """The owner's own key (stored so far as the hash `before`) has another secret now; any other key is none of
    these."""
    try:
        stored = json.loads(home.credentials.read_text())
    except (FileNotFoundError, ValueError):
        return
    if hash_key(stored.get("api_key", "")) == before:
        write_private(home.credentials, json.dumps({**stored, "api_key": secret}, indent=1))


def write_private(path: os.PathLike[str], text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    staged = f"{os.fspath(path)}.new"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(staged, path)


if __name__ == "__main__":
    # For containers: makes the owner's key (of GROUPQWEN_API_KEY) where `up` does not run.
    load_credentials(home())
