"""The Compose files without Docker: against their schema, the files that they name, and env.example."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.profile import Ports

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FILES = [DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml"]
BASE, GPU = (yaml.safe_load(path.read_text()) for path in FILES)
SERVICES: dict[str, dict[str, Any]] = BASE["services"]
PORTS = Ports.model_validate({})


def variables() -> dict[str, str]:
    """Every `${NAME…}` of the Compose files: name → operator and word after it (`:-8000`, `:?…`)."""
    text = "".join(path.read_text() for path in FILES)
    return dict(re.findall(r"\$\{(\w+)([^}]*)\}", text))


# -- Compose ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_files_are_what_the_compose_specification_says(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_published_beyond_this_machine() -> None:
    published: dict[str, list[int]] = {}
    for services in (SERVICES, GPU["services"]):
        for name, service in services.items():
            assert service.get("network_mode") != "host" and not service.get("privileged"), name
            for port in service.get("ports", []):
                assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port), f"{name} publishes {port}"
                published.setdefault(name, []).append(int(port.rpartition(":")[2]))
    assert published == {"head": [PORTS.http, 8266], "open-webui": [8080], "grafana": [3000]}


def test_databases_are_reached_by_the_head_alone() -> None:
    assert BASE["networks"]["data"]["internal"] is True
    assert {name for name, one in SERVICES.items() if "data" in one.get("networks", [])} == {
        "head",
        "redis",
        "postgres",
    }
    for name in ("redis", "postgres"):
        assert SERVICES[name]["networks"] == ["data"]
    url = SERVICES["head"]["environment"]["GROUPQWEN_DATABASE_URL"]
    assert re.fullmatch(r"postgresql://groupqwen:\$\{POSTGRES_PASSWORD:\?[^}]+\}@postgres:5432/groupqwen", url)
    assert BASE["configs"]["redis"]["content"].startswith("requirepass ${REDIS_PASSWORD:?")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_guarded_watched_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    if "build" in service:
        assert "HEALTHCHECK" in (DOCKER / "Dockerfile").read_text()
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert re.search(r":v?\d+\.\d+\.\d+|:18\.\d+", service["image"]), service["image"]
    for other, wait in service.get("depends_on", {}).items():
        assert other in SERVICES
        assert wait["condition"] in ("service_healthy", "service_started")


def test_what_is_mounted_or_built_is_there() -> None:
    mounted = 0
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name} mounts {source}"
                assert volume.endswith(":ro")
                mounted += 1
            else:
                assert source in BASE["volumes"], f"{name}: {source}"
        for network in service.get("networks", []):
            assert network in BASE["networks"]
        assert not ("network_mode" in service and {"ports", "networks"} & service.keys())
    assert mounted == 3
    build = SERVICES["head"]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]).is_file()


def test_images_are_built_of_what_is_there() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert set(GPU["services"]["head"]["build"]["args"]) <= arguments
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert all((ROOT / path).exists() for path in sent)
    for line in re.findall(r"^COPY (?!--from)(.+)", dockerfile, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        assert {path for path in sources if path != "."} <= set(sent), line
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert packages <= set(sent)


def test_open_webui_sends_everything_to_the_head() -> None:
    settings = SERVICES["open-webui"]["environment"]
    keys = {value for name, value in settings.items() if name.endswith("OPENAI_API_KEY")}
    urls = {value for name, value in settings.items() if name.endswith("OPENAI_API_BASE_URL")}
    assert urls == {f"http://head:{PORTS.http}/v1"}
    assert keys == {SERVICES["head"]["environment"]["GROUPQWEN_API_KEY"]}
    assert sum(name.endswith("OPENAI_API_KEY") for name in settings) == 7
    assert json.loads(settings["DEFAULT_MODEL_PARAMS"]) == {"function_calling": "legacy"}
    assert json.loads(settings["DEFAULT_MODEL_METADATA"])["capabilities"]["builtin_tools"] is False
    assert json.loads(settings["OPENAI_API_CONFIGS"])["0"]["headers"] == {
        "X-Gateway-Task": "{{TASK}}",
        "X-Gateway-Chat": "{{CHAT_ID}}",
        "X-Gateway-Message": "{{MESSAGE_ID}}",
    }


# -- The environment -------------------------------------------------------------------------------------


def test_env_example_explains_every_variable_and_no_other() -> None:
    explained: dict[str, str] = {}
    for block in (DOCKER / "env.example").read_text().split("\n\n")[1:]:
        words = " ".join(line for line in block.splitlines() if re.match(r"# (?![A-Z_]+=)", line))
        for commented, name, value in re.findall(r"^(# )?([A-Z_]+)=(.*)$", block, re.MULTILINE):
            assert len(words) > 40, f"{name} is not explained"
            explained[name] = f":-{value}" if commented else ":?"
            assert commented or not value, f"{name} must not have a value that someone could leave as it is"
    used = variables()
    assert explained.keys() == used.keys()
    for name, word in used.items():
        assert word.startswith(explained[name]) or name == "GROUPQWEN_PROFILE", f"{name}: {word}"
    assert "${GROUPQWEN_PROFILE:-cpu}" in FILES[0].read_text()


def test_no_secret_may_be_empty() -> None:
    for path in FILES:
        for name, word in re.findall(r"\$\{(\w+)([^}]*)\}", path.read_text()):
            if re.search("KEY|PASSWORD|SECRET", name):
                assert word.startswith(":?") and len(word) > 10, f"{name}{word}"


def test_the_command_of_env_example_fills_every_secret_once(tmp_path: Path) -> None:
    text = (DOCKER / "env.example").read_text()
    lines = re.search(r"^#   (test -e .*)\n#     (.*)$", text, re.MULTILINE)
    assert lines is not None
    command = lines[1].removesuffix("\\") + lines[2]
    readme = (DOCKER / "README.md").read_text()
    assert lines[1] in readme and lines[2] in readme
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/env.example").write_text(text)
    made = tmp_path / "docker/.env"
    for _ in range(2):  # The second time it must leave what is there.
        before = made.read_text() if made.exists() else None
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        assert before in (None, made.read_text())
    secrets = dict(re.findall(r"^([A-Z_]+)=(.*)$", made.read_text(), re.MULTILINE))
    assert set(secrets) == {name for name, word in variables().items() if word.startswith(":?")}
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets.values())
    assert len(set(secrets.values())) == len(secrets)
    assert made.stat().st_mode & 0o077 == 0
