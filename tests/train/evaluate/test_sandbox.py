"""What a program that a model has written can do: compute, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from train.evaluate.sandbox import passes

ESCAPED = Path("/tmp/groupqwen-escaped")


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "open('/etc/passwd').read()",
        f"open('{ESCAPED}', 'w').write('x')",
        "import os; os.listdir('/home')",
        "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
        "import subprocess; subprocess.run(['/bin/true'], check=True)",
        "import os; os.remove(__file__ if '__file__' in globals() else '/etc/hosts')",
        "x = bytearray(2**31)",
        "import os; os.fork()",
        "import os\nwhile True: os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import ctypes; assert ctypes.CDLL(None).syscall(435, 0, 0) >= 0",  # clone3
        "import os; os._exit(86)",
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "import os, sys; os._exit(sys._getframe(1).f_locals['passed'])",
        "import os, sys; os._exit(next((v for v in sys._getframe(1).f_locals.values() if type(v) is int), 0))",
        "import builtins, os; builtins.exec = print; os.write = print",
    ],
)
def test_a_program_gets_nowhere(sandbox: None, program: str) -> None:
    assert not passes(program, "assert False" if "builtins" in program else "")
    assert not ESCAPED.exists()


def test_a_program_cannot_reach_other_processes(sandbox: None) -> None:
    assert not passes(f"import os, signal; os.kill({os.getpid()}, 0)")
    assert passes("import math, re, json, collections, itertools; assert math.sqrt(4) == 2")


def test_it_is_told_that_it_stays_alone(sandbox: None) -> None:
    assert passes("import os\ntry:\n    os.fork()\nexcept BlockingIOError:\n    pass\nelse:\n    raise SystemExit")
