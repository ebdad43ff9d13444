"""The deployments behind the Gateway, for routes that are plain functions."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.contract import engine_gone
from serve_app.errors import chat_error

GONE = (RayActorError, RayServeException)

_handles: dict[str, DeploymentHandle] = {}


def serve_from(**handles: DeploymentHandle) -> None:
    """Set them, by name. One set for the process: Serve ships the routes before the Gateway is built."""
    _handles.update(handles)


async def asked(part: str, method: str, *arguments: Any, **named: Any) -> Any:
    """What a part says. Raises `ChatError`."""
    try:
        return await getattr(_handles[part], method).remote(*arguments, **named)
    except RayTaskError as error:
        raise chat_error(error) from error
    except (*GONE, TimeoutError) as error:
        raise engine_gone(part) from error
