"""Runs a program that a model has written: no network, no files but Python's own, no other processes, a few
seconds.

The limits are the kernel's (Landlock, a network namespace of its own, rlimits), set by the process that then runs
the program: nothing that the program does takes them off again. Where the kernel has not got them, nothing is run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

SECONDS = 5
MEMORY_BYTES = 512 * 2**20

_REFUSED, _PASSED = 86, 0
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # read a file, list a folder
_ALL_FILES = (1 << 13) - 1  # every right of Landlock's first version
_ALL_TCP = 0b11
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38
_BENEATH = 1


class SandboxMissing(RuntimeError):
    """This kernel cannot confine a program."""


def passes(program: str) -> bool:
    """Whether a Python program ends by itself, in time and without an exception. Raises `SandboxMissing`."""
    command = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", str(Path(__file__))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    try:
        process.communicate(program.encode("utf-8", "replace"), timeout=SECONDS + 1)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == _REFUSED:
        raise SandboxMissing("this kernel cannot confine a program (Landlock and user namespaces are needed)")
    return process.returncode == _PASSED


def confine() -> None:
    """Take everything from this process and its children that a program does not need; the next child is the first
    of a process namespace, which ends with it. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result = int(libc.syscall(*arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    if libc.unshare(_NEW_USER | _NEW_PID | _NEW_NET) or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    rights = ctypes.create_string_buffer(struct.pack("QQ", _ALL_FILES, _ALL_TCP))
    rules = call(_LANDLOCK_CREATE, rights, 16, 0)
    for folder in {sys.base_prefix, "/usr/lib", "/lib"}:
        if Path(folder).is_dir():
            opened = os.open(folder, os.O_PATH)
            beneath = ctypes.create_string_buffer(struct.pack("=Qi", _READ, opened))
            call(_LANDLOCK_ADD, rules, _BENEATH, beneath, 0)
            os.close(opened)
    call(_LANDLOCK_RESTRICT, rules, 0)
    for limit, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def _main() -> None:
    written = sys.stdin.read()
    try:
        confine()
        child = os.fork()
    except OSError:
        os._exit(_REFUSED)
    if child:
        os._exit(_PASSED if os.waitpid(child, 0)[1] == 0 else 1)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    exec(compile(written, "<answer>", "exec"), {"__name__": "__main__"})  # the point of it all


if __name__ == "__main__":
    _main()
