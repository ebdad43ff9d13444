"""Brings the application back after Ray has died: `python -m groupqwen.stack.revival`, beside a Ray that starts.

What served is deployed as it was noted (`run/serve_config.yaml`), not what the files say by now: nobody is there
to see a changed configuration fail.
"""

from __future__ import annotations

import time
from dataclasses import replace

from rich.console import Console

from configs.document import ConfigError
from configs.home import Home, home
from groupqwen.stack.credentials import load_credentials
from groupqwen.stack.deploy import APPLICATION, application, deploy, wait_for_ray, wait_until_ready
from groupqwen.stack.lifecycle import only_one, remembered, settings_for
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.rollout import serving
from groupqwen.stack.settings import Settings

ATTEMPTS = 3
PAUSE_SECONDS = 30.0


def main() -> None:
    """Try a few times; what is in the way goes to standard output."""
    console = Console(width=200)
    for attempt in range(ATTEMPTS):
        try:
            console.print(f"{time.strftime('%F %T')} {revive(home(), console)}")
            return
        except StartProblem as problem:
            console.print(f"{time.strftime('%F %T')} not back yet: {problem}")
            time.sleep(PAUSE_SECONDS * (attempt + 1))
    console.print("Given up: `bash scripts/up.sh` starts it.")


def revive(own: Home, console: Console) -> str:
    """Deploy what served, and wait until it answers; says what was done. Raises `StartProblem`."""
    # Whoever is at work here (`up`, `deploy`, `down`) comes first, and may have done it, or decided otherwise.
    with only_one(own, console):
        settings = _settings(own)
        config = None if settings is None else serving(settings)
        if settings is None or config is None:
            return "nothing has served here yet"
        credentials = load_credentials(own)
        if not wait_for_ray(settings, credentials):
            raise StartProblem("Ray does not answer")
        found = (application(settings, credentials) or {}).get("applications") or {}
        if APPLICATION in found:
            return "it serves already"
        deploy(settings, credentials, config)
        wait_until_ready(settings, credentials, lambda _: None)
        return "it serves again"


def _settings(own: Home) -> Settings | None:
    """Where everything listens; for that a profile that is gone or wrong by now does not count."""
    choices = remembered(own)
    if choices is None:
        return None
    try:
        return settings_for(own, choices)
    except ConfigError:
        return settings_for(own, replace(choices, profile="cpu", catalog=None))


if __name__ == "__main__":
    main()
