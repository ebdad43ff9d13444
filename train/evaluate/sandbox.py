"""Runs a program that a model has written: no network, no files but Python's own, no other processes, a few
seconds.

The limits are the kernel's (Landlock, seccomp, a network namespace of its own, rlimits), set by the process that
then runs the program: nothing that the program does takes them off again. Where the kernel lacks them, nothing is
run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

SECONDS = 5
MEMORY_BYTES = 512 * 2**20

_REFUSED = 86
_ALONE = b"!"
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # read a file, list a folder
_ALL_FILES = (1 << 13) - 1  # every right of Landlock's first version
_ALL_TCP = 0b11
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES, _SECCOMP = 1, 38, 22
_BENEATH = 1

_BIRTHS = {  # per machine: seccomp's name of it, and the system calls that make a process or a thread
    "x86_64": (0xC000003E, (56, 57, 58, 435)),
    "aarch64": (0xC00000B7, (220, 435)),
}


class SandboxMissing(RuntimeError):
    """This kernel cannot confine a program."""


def passes(program: str, test: str = "") -> bool:
    """Whether a Python program, and then `test` among its names, come to their end, in time and without an
    exception; one that leaves before it (`sys.exit`) does not. Raises `SandboxMissing`.

    By what the end is told comes into the program's process after the program, before the test. (Who writes for
    this very sandbox may ask for it too early: it keeps the machine safe, not the test from forgers.)
    """
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
        process.communicate(json.dumps([program, test]).encode(), timeout=SECONDS + 1)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == _REFUSED:
        raise SandboxMissing(
            "this kernel cannot confine a program (Landlock, seccomp and user namespaces are needed)"
        )
    return process.returncode == 0


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


def stay_alone() -> None:
    """From now on this process makes no other, and no thread. Raises OSError where the kernel refuses.

    (A limit of processes does not count for root; a filter of system calls does.)
    """
    try:
        architecture, births = _BIRTHS[platform.machine()]
    except KeyError:
        raise OSError(f"no filter for {platform.machine()}") from None
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 11, 0x80000000  # 11: EAGAIN, as at any limit
    instructions = [
        (load, 0, 0, 4),  # the machine whose numbers these are
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),  # the system call's number
        (at_least, 0, 1, 0x40000000),  # x86-64's second set of numbers
        (answer, 0, 0, kill),
    ]
    for birth in births:
        instructions += [(equal, 0, 1, birth), (answer, 0, 0, refuse)]
    instructions.append((answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SECCOMP, 2, ctypes.create_string_buffer(program), 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _main() -> None:
    """Confine a child, and tell how it ends. It knows nothing by which the end could be told before that."""
    written, test = json.load(sys.stdin)
    heard, says = os.pipe()
    hears, said = os.pipe()
    try:
        confine()
        child = os.fork()
    except OSError:
        os._exit(_REFUSED)
    if not child:
        os.close(heard)
        os.close(said)
        _run(written, test, says, hears)
    os.close(says)
    os.close(hears)
    if os.read(heard, 1) != _ALONE:
        os._exit(_REFUSED)
    os.read(heard, 1)  # (It has come to the test, or to its end.)
    token = os.urandom(16)
    with contextlib.suppress(OSError):
        os.write(said, token)
    told = os.read(heard, len(token))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(0 if told == token and ended == 0 else 1)


def _run(written: str, test: str, says: int, hears: int) -> None:
    """The child's side; does not return."""
    run, leave, read, write = exec, os._exit, os.read, os.write  # (What the program may put others in place of.)
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        stay_alone()
    except OSError:
        leave(1)
    write(says, _ALONE)
    names = {"__name__": "__main__"}
    run(compile(written, "<answer>", "exec"), names)
    checks = compile(test, "<test>", "exec")
    write(says, b"?")
    token = read(hears, 16)
    run(checks, names)
    write(says, token)
    leave(0)


if __name__ == "__main__":
    _main()
