"""Where state lives: `GROUPQWEN_HOME` (default `~/.groupqwen`), and the paths in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from configs.catalog import Source


@dataclass(frozen=True)
class Home:
    """All paths of one installation. Everything under it belongs to the owner alone (mode 700)."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def run(self) -> Path:
        """Sockets, generated configuration and process ids of what runs now."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def journal(self) -> Path:
        """Ledger rows on their way to PostgreSQL."""
        return self.root / "journal"

    @property
    def training(self) -> Path:
        """What fine-tuning reads and makes: `imports`, `datasets`, `files`, `jobs`."""
        return self.root / "training"

    @property
    def adapters(self) -> Path:
        """A folder for each adapter that was trained; see configs/adapters.py."""
        return self.root / "adapters"

    @property
    def keys(self) -> Path:
        """API keys, hashed."""
        return self.root / "keys.json"

    @property
    def salt(self) -> Path:
        """What questions are hashed with whose words are not to be kept."""
        return self.root / "ledger.salt"

    @property
    def credentials(self) -> Path:
        """The owner's own key and the services' passwords, in clear, readable by the owner only."""
        return self.root / "credentials.json"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.root, self.models, self.run, self.logs, self.redis, self.postgres, self.journal):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not readable for others; but where it has become passable, it stays so: as root, the database's own user
        # has to get to its data.
        self.root.chmod(0o700 | self.root.stat().st_mode & 0o011)

    def model_file(self, name: str, source: Source) -> Path:
        """Where a downloaded file of variant or embedder `name` lies; a cut one lies joined."""
        return self.models / name / (f"{name}.gguf" if source.parts else source.filename)

    def model_folder(self, name: str) -> Path:
        """Where variant `name` lies in the form that vLLM reads: a repository, or made from its GGUF file."""
        return self.models / name / "safetensors"

    @property
    def routing(self) -> Path:
        """The owner's own routing rules, in place of configs/routing.yaml."""
        return self.root / "routing.yaml"

    @property
    def gates(self) -> Path:
        """The owner's own rules for adapters, in place of configs/gates.yaml."""
        return self.root / "gates.yaml"

    @property
    def router(self) -> Path:
        """What `groupqwen router train` has learned."""
        return self.root / "router.npz"

    @property
    def families(self) -> Path:
        """What `groupqwen router families` has learned."""
        return self.root / "families.npz"

    @property
    def calibration(self) -> Path:
        """What `groupqwen router calibrate` has learned."""
        return self.root / "calibration.json"

    @property
    def cache_key(self) -> Path:
        """What the cache's entries are encrypted with; they are not, where there is no such file."""
        return self.root / "cache.key"

    @property
    def cache_likeness(self) -> Path:
        """What `groupqwen cache calibrate` has learned."""
        return self.root / "cache.json"

    def embedder_file(self, name: str) -> Path:
        """Where the embedder's ONNX export lies, which is made at install."""
        return self.models / name / "model.int8.onnx"


def home() -> Home:
    """The home of this process's environment."""
    return Home(Path(os.environ.get("GROUPQWEN_HOME") or "~/.groupqwen").expanduser().absolute())
