"""`serve.deployment`, with replicas that keep to their node's address.

Ray binds each replica's server for calls between deployments to all interfaces, whatever the node's
address is (2.60; it is authenticated by Ray's token, but need not be reachable at all). Importing this
module in a replica, which happens when its class is unpacked and so before that server starts, puts it
on the node's own address. A test looks at every listening socket of a running
installation, so that a change in Ray cannot undo this unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica
from ray.serve.handle import DeploymentHandle

from deployments.residency import RESIDENCY

_add_port = replica.add_port_to_grpc_server


def _add_port_on_node(server: Any, address: str) -> Any:
    return _add_port(server, address.replace("[::]", ray.util.get_node_ip_address()))


replica.add_port_to_grpc_server = _add_port_on_node


def on_node(cls: type) -> type:
    """The class, whose replicas keep to their node's address. Serve ships classes by value; the attribute is what
    makes a replica import this module when it unpacks one."""
    cls._binds_on_node = staticmethod(_add_port_on_node)  # type: ignore[attr-defined]
    return cls


def deployment(cls: type) -> Any:
    """The class as a Serve deployment."""
    return serve.deployment(on_node(cls))


def bind(cls: Any, options: dict[str, Any], *arguments: Any) -> serve.Application:
    """A node of the graph: `cls` (which `deployment` made one) with Serve options and constructor arguments."""
    return cls.options(**options).bind(*arguments)


def variant_of(application: str, name: str) -> DeploymentHandle:
    """A deployment of another application of this cluster, which may not be there yet: calls wait for it."""
    return serve.get_deployment_handle(name, application, _check_exists=False)


def asks_residency(variant: str) -> Callable[[], None]:
    """In a replica: what tells Residency that someone waits for `variant`."""
    residency = serve.get_deployment_handle(RESIDENCY, serve.get_replica_context().app_name)
    return lambda: residency.wanted.remote(variant)
