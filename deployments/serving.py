"""`serve.deployment`, with replicas that keep to their node's address and are replaced only when they change.

Ray binds each replica's server for calls between deployments to all interfaces, whatever the node's
address is (2.60; it is authenticated by Ray's token, but need not be reachable at all). Importing this
module in a replica, which happens when its class is unpacked and so before that server starts, puts it
on the node's own address. A test looks at every listening socket of a running
installation, so that a change in Ray cannot undo this unnoticed. What a replica may write into its log
(`logs.py`) is put in force in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel
from ray import serve
from ray.serve._private import replica
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import _get_serve_request_context
from ray.serve.handle import DeploymentHandle

from deployments.logs import install
from deployments.residency import RESIDENCY

_add_port = replica.add_port_to_grpc_server


def _add_port_on_node(server: Any, address: str) -> Any:
    return _add_port(server, address.replace("[::]", ray.util.get_node_ip_address()))


replica.add_port_to_grpc_server = _add_port_on_node
install(lambda: bool(_get_serve_request_context().request_id))


def on_node(cls: type) -> type:
    """The class, whose replicas keep to their node's address. Serve ships classes by value; the attribute is what
    makes a replica import this module when it unpacks one."""
    cls._binds_on_node = staticmethod(_add_port_on_node)  # type: ignore[attr-defined]
    return cls


def deployment(cls: type) -> Any:
    """The class as a Serve deployment."""
    return serve.deployment(on_node(cls))


class Graph:
    """One application while it is built, in which every deployment has a version of its own.

    Serve (2.60) gives all deployments of an application one version, which changes with anything in the
    application's arguments: a new context for one model would reload all of them. Here it follows from what the
    deployment itself is made with, so that a rollout replaces what has changed and nothing else. `build`: a
    fingerprint of the code.
    """

    def __init__(self, build: str) -> None:
        self._build = build

    def bind(self, cls: Any, options: dict[str, Any], *arguments: Any) -> serve.Application:
        """A node of the graph: `cls` (which `deployment` made one) with Serve options and its own arguments."""
        return self.versioned(cls.options(**options).bind(*arguments), arguments)

    def versioned(self, node: serve.Application, made_with: Any) -> serve.Application:
        """The node, replaced when `made_with` (what `fingerprint` takes) changes, or the code."""
        _fix_version(node._bound_deployment._deployment_config, fingerprint([self._build, made_with]))
        return node


def _fix_version(config: DeploymentConfig, version: str) -> None:
    """Serve sets the version of a deployment's configuration just before it hands it to the controller; this one
    keeps its own."""

    class Versioned(DeploymentConfig):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, version if name == "version" else value)

    config.__class__ = Versioned


def name_of(node: serve.Application) -> str:
    """The name of a node's deployment."""
    return str(node._bound_deployment.name)


def fingerprint(made_with: Any) -> str:
    """The same for the same values, in every process. Takes what JSON has, pydantic's models, dataclasses, paths
    and nodes (by their names). Raises `TypeError` for anything else."""
    text = json.dumps(made_with, default=_plain, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, serve.Application):
        return name_of(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no fingerprint")


def variant_of(application: str, name: str) -> DeploymentHandle:
    """A deployment of another application of this cluster, which may not be there yet: calls wait for it."""
    return serve.get_deployment_handle(name, application, _check_exists=False)


def asks_residency(variant: str) -> Callable[[], None]:
    """In a replica: what tells Residency that someone waits for `variant`."""
    residency = serve.get_deployment_handle(RESIDENCY, serve.get_replica_context().app_name)
    return lambda: residency.wanted.remote(variant)
