"""Serve configurations that plans decide, for those who run Ray themselves: serve_config.yaml and configs/serve/.

`groupqwen plan --write` writes them, and a test holds them current. (`up.sh` makes its own for its machine.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from configs.catalog import Catalog
from configs.placement import HEAD, PLENTY, application_of
from configs.planner import Plan, make_plans
from configs.profile import Profile, load_profile, profile_names

ROOT = Path(__file__).parent.parent
SERVE = ROOT / "configs" / "serve"
PRODUCTION = "rtx5090"
KUBERNETES = "h200"
RAY_VERSION = "2.60.0"

HEADER = """\
# Made by `groupqwen plan --write` from configs/profiles/{profile}.yaml; change that, not this.
# For `serve deploy` on a Ray of your own, whose head was started with --resources='{resources}' and
# with GROUPQWEN_HOME, GROUPQWEN_REDIS_URL and GROUPQWEN_DATABASE_URL in its environment: no secret is in a file.
# On one machine `bash scripts/up.sh --profile {profile}` does all of that itself.
"""


class _Text(str):
    """Written as a block, line by line."""


yaml.SafeDumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def serve_files(catalog: Catalog) -> dict[Path, str]:
    """Every file and what must be in it."""
    made = {SERVE / f"{name}.yaml": _with_header(name, catalog) for name in profile_names()}
    made[ROOT / "serve_config.yaml"] = made[SERVE / f"{PRODUCTION}.yaml"]
    made[SERVE / "kuberay.yaml"] = _kuberay_file(catalog)
    return made


def production_config(profile: Profile, catalog: Catalog) -> dict[str, Any]:
    """What `serve deploy` takes: an application for the head and one for each other machine, and what Ray reserves
    for each of their variants, as the plan has it."""
    # The machines of shipped profiles without a size of their own are whatever they are started on.
    plans = make_plans(profile, catalog, 1_000_000)
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": "127.0.0.1",
            "port": profile.ports.http,
            "request_timeout_s": profile.limits.request_seconds + 30,
        },
        "logging_config": {"log_level": "WARNING", "encoding": "JSON", "enable_access_log": False},
        "applications": [_application(profile, plan) for plan in plans if plan.rows],
    }


def _application(profile: Profile, plan: Plan) -> dict[str, Any]:
    device = profile.variants[plan.rows[0].variant].node
    return {
        "name": "groupqwen" if device is None else application_of(device),
        "route_prefix": "/" if device is None else None,
        "import_path": "serve_app.app:build",
        "args": {"profile": profile.name} | ({} if device is None else {"node": device}),
        "deployments": [
            {"name": row.variant, "num_replicas": row.replicas, "ray_actor_options": plan.reserves(row)}
            for row in plan.rows
            if row.engine == "llama.cpp"
        ],
    }


def kuberay(profile: Profile, catalog: Catalog) -> dict[str, Any]:
    """A KubeRay RayService of one node with a card, from the same plan."""
    config = production_config(profile, catalog)
    config["http_options"]["host"] = "0.0.0.0"  # noqa: S104  # Of the pod: who reaches it is the Service's business.
    image = "groupqwen:local"
    environment: list[dict[str, Any]] = [
        {"name": "GROUPQWEN_HOME", "value": "/var/lib/groupqwen"},
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": "groupqwen", "key": key}}}
            for name, key in (
                ("GROUPQWEN_REDIS_URL", "redis-url"),
                ("GROUPQWEN_DATABASE_URL", "database-url"),
                ("GROUPQWEN_API_KEY", "api-key"),
            )
        ),
    ]
    home = {"name": "home", "mountPath": "/var/lib/groupqwen"}
    guarded = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    weights = sum(catalog.variant(name).weights_mb for name in profile.variants)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "groupqwen"},
        "spec": {
            "serveConfigV2": _Text(yaml.safe_dump(config, sort_keys=False)),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "headGroupSpec": {
                    "rayStartParams": {
                        "dashboard-host": "0.0.0.0",  # noqa: S104  # KubeRay's own probes ask it from outside the pod.
                        "num-cpus": "16",
                        # KubeRay wants it quoted twice.
                        "resources": json.dumps(json.dumps({HEAD: PLENTY})),
                    },
                    "template": {
                        "spec": {
                            "securityContext": {"runAsNonRoot": True, "fsGroup": 1000, "runAsUser": 1000},
                            "initContainers": [
                                {
                                    "name": "weights-and-key",
                                    "image": image,
                                    "command": [
                                        "sh",
                                        "-c",
                                        f"groupqwen models pull --profile {profile.name} && "
                                        "python -m groupqwen.stack.credentials",
                                    ],
                                    "env": environment,
                                    "volumeMounts": [home],
                                    "securityContext": guarded,
                                }
                            ],
                            "containers": [
                                {
                                    "name": "ray-head",
                                    "image": image,
                                    "env": [each for each in environment if each["name"] != "GROUPQWEN_API_KEY"],
                                    "ports": [
                                        {"containerPort": 6379, "name": "gcs-server"},
                                        {"containerPort": 8265, "name": "dashboard"},
                                        {"containerPort": profile.ports.http, "name": "serve"},
                                    ],
                                    "resources": {
                                        "requests": {"cpu": "8", "memory": "48Gi"},
                                        "limits": {"memory": "96Gi", "nvidia.com/gpu": "1"},
                                    },
                                    "volumeMounts": [home],
                                    "securityContext": guarded,
                                }
                            ],
                            "volumes": [
                                {"name": "home", "persistentVolumeClaim": {"claimName": "groupqwen-home"}}
                            ],
                        },
                        "metadata": {
                            "annotations": {"groupqwen/weights": f"{weights / 1024:.0f} GiB under GROUPQWEN_HOME"}
                        },
                    },
                },
            },
        },
    }


def _with_header(name: str, catalog: Catalog) -> str:
    profile = load_profile(name, catalog)
    header = HEADER.format(profile=name, resources=json.dumps({HEAD: PLENTY}, separators=(",", ":")))
    return header + yaml.safe_dump(production_config(profile, catalog), sort_keys=False, width=100)


def _kuberay_file(catalog: Catalog) -> str:
    header = (
        f"# Made by `groupqwen plan --write` from configs/profiles/{KUBERNETES}.yaml; change that, not this.\n"
        "# A KubeRay RayService. Before it: an image from docker/Dockerfile, a claim `groupqwen-home`, and a\n"
        "# secret `groupqwen` with redis-url, database-url and api-key (Redis 8 with search, PostgreSQL 14).\n"
    )
    return header + yaml.safe_dump(kuberay(load_profile(KUBERNETES, catalog), catalog), sort_keys=False, width=100)
