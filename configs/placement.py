"""On which node of the cluster what runs: the resources and application names that head and nodes share. Pure."""

from __future__ import annotations

from configs.routing import DeviceClass

HEAD = "groupqwen_head"
"""The head's resource: what is placed by it never lands on a machine that may fall asleep."""

PLENTY = 1_000_000
SLIVER = 0.001
"""Of a resource that only says where: a node has plenty, and each replica takes next to nothing."""


def resource(device: DeviceClass | None) -> str:
    """The resource that a node of this kind brings to the cluster."""
    return HEAD if device is None else f"groupqwen_{device}"


def there(device: DeviceClass | None) -> dict[str, float]:
    """What an actor asks for to be placed on that node."""
    return {resource(device): SLIVER}


def application_of(device: DeviceClass) -> str:
    """The Serve application that holds a node's variants: it waits for its node without holding up the others."""
    return f"groupqwen-{device}"
