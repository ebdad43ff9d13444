"""`ray start` for a second node on loopback: `python -m groupqwen.loopback_node --address=127.0.0.1:PORT …`.

Ray ties two things to one variable: whether localhost is replaced by the machine's address (which would make
the node listen on all interfaces), and whether a node may join at all. Here the first stays off and the second
is on. For trying a cluster out on one machine; nodes of their own addresses use Ray's own command.
"""

from __future__ import annotations

import sys

from ray._private import ray_constants, services
from ray.scripts import scripts

LOOPBACK = "127.0.0.1"


def main() -> None:
    """Run `ray start` with this process's arguments."""
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda address=None: LOOPBACK
    sys.argv = ["ray", "start", *sys.argv[1:]]
    scripts.main()


if __name__ == "__main__":
    main()
