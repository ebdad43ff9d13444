"""The apps of `groupqwen data`, `train` and `adapters` with all their commands: each file adds its own."""

from groupqwen.training import adapters, curating, data, demo, imports, jobs, promotion, registry, running, train

__all__ = ["adapters", "curating", "data", "demo", "imports", "jobs", "promotion", "registry", "running", "train"]
