from __future__ import annotations

import stat
from pathlib import Path

from configs.home import Home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    assert mode(home.root) == 0o700
    assert mode(home.models) == 0o700


def test_making_it_again_closes_it_to_readers_but_not_to_the_databases_user(tmp_path: Path) -> None:
    # `download_models.py` beside a running stack once locked PostgreSQL out of its own data.
    home = Home(tmp_path / "home")
    home.make()
    home.root.chmod(0o755)
    home.make()
    assert mode(home.root) == 0o711
