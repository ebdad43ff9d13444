from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.home import Home
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.sockets import short_folder, socket_folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home with a long path; its folder among the temporary files is taken away afterwards."""
    home = Home(tmp_path / ("a" * 90))
    folder = short_folder(home)
    yield home
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def test_a_short_home_keeps_its_own_folder() -> None:
    assert socket_folder(Home(Path("/home/ann/.groupqwen"))) == Path("/home/ann/.groupqwen/run")


def test_a_long_home_gets_a_short_private_folder_of_its_own(home: Home) -> None:
    folder = socket_folder(home)
    assert len(str(folder)) < 40
    assert folder.stat().st_mode & 0o777 == 0o700
    assert socket_folder(home) == short_folder(home) == folder
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
    other = short_folder(Home(home.root / "other"))
    other.rmdir()
    assert other != folder


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o770])
def test_a_folder_that_is_not_private_is_refused(home: Home, mode: int) -> None:
    folder = socket_folder(home)
    folder.chmod(mode)
    with pytest.raises(StartProblem, match=f"{folder.name}.*remove it"):
        socket_folder(home)


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_what_someone_else_put_in_its_place_is_refused(home: Home, tmp_path: Path, kind: str) -> None:
    folder = socket_folder(home)
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    if kind == "link":
        elsewhere.mkdir(mode=0o700)
    if kind == "file":
        folder.touch(0o600)
    else:
        folder.symlink_to(elsewhere)
    with pytest.raises(StartProblem, match="remove it"):
        socket_folder(home)
