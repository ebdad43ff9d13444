"""Dependencies point one way: serve_app → deployments → configs, train → configs (see the design)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"configs", "deployments", "serve_app", "train", "groupqwen", "scripts", "benchmarks", "tests"}
MAY = {
    "configs": {"configs"},
    "deployments": {"deployments", "configs"},
    "train": {"train", "configs"},
    "serve_app": {"serve_app", "deployments", "configs"},
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import anywhere in a file; a relative one by its full name."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), node.lineno


def found(package: str, forbidden: set[str], spared: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name not in spared
        for module, line in imports(path)
        if module.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", MAY)
def test_dependencies_point_one_way(package: str) -> None:
    assert found(package, OURS - MAY[package]) == []
    assert any((ROOT / package).rglob("*.py"))


def test_configs_import_neither_ray_nor_a_server_nor_an_engine() -> None:
    assert found("configs", {"ray", "fastapi", "starlette", "llama_cpp", "vllm"}) == []


def test_only_the_thin_wrappers_of_deployments_import_ray() -> None:
    assert (
        found(
            "deployments",
            {"ray"},
            spared=("deployment.py", "metrics.py", "serving.py", "variants.py", "reader.py", "ray_jobs.py"),
        )
        == []
    )


def test_deployments_know_no_http() -> None:
    assert found("deployments", {"fastapi", "starlette", "uvicorn"}) == []


def test_the_check_sees_imports_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "configs" / "inner"
    package.mkdir(parents=True)
    (package / "one.py").write_text(
        "import os, ray.serve\nfrom . import two\nfrom ..three import x\n"
        "def late():\n    from serve_app.keys import KeyRing\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [module for module, _ in imports(package / "one.py")] == [
        "os",
        "ray.serve",
        "configs.inner",
        "configs.three",
        "serve_app.keys",
    ]
    assert found("configs", {"ray", "serve_app"}) == [
        "configs/inner/one.py:1 imports ray.serve",
        "configs/inner/one.py:5 imports serve_app.keys",
    ]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("groupqwen.cli", ["ray", "sklearn", "scipy", "openai", "torch", "vllm", "onnxruntime"]),
        # `groupqwen cache export` and `import`
        ("groupqwen.cache_files, groupqwen.outcomes", ["ray", "sklearn", "pandas", "torch", "vllm"]),
    ],
)
def test_a_command_does_not_wait_for_what_it_does_not_use(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""
