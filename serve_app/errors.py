"""Every error in OpenAI's shape, whatever raised it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray.exceptions import RayTaskError
from starlette.exceptions import HTTPException

from deployments.contract import ChatError, ErrorKind, invalid
from serve_app.schemas import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request is wrong; the message says where."},
    401: {"model": ErrorResponse, "description": "No valid API key."},
    403: {"model": ErrorResponse, "description": "The key is valid, and not for this."},
    404: {"model": ErrorResponse, "description": "No such model, or what else the path names."},
    408: {"model": ErrorResponse, "description": "The body did not come in time."},
    413: {"model": ErrorResponse, "description": "The body, or an image in it, is too large."},
    429: {"model": ErrorResponse, "description": "Busy: try again after `Retry-After` seconds."},
    500: {"model": ErrorResponse, "description": "A fault of ours."},
    503: {"model": ErrorResponse, "description": "A part is not there right now; it comes back by itself."},
    504: {"model": ErrorResponse, "description": "The answer took longer than a request may."},
}

CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorResponse, "description": "As things stand it cannot be done; the message says why."},
}
"""Of routes that change what others use too."""
DISK_FULL: dict[int | str, dict[str, Any]] = {
    507: {"model": ErrorResponse, "description": "This machine's disk is full: something must be deleted first."},
}
"""Of routes that write to the disk."""
NO_SUCH_RANGE: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that `Range` asks for."},
    416: {"model": ErrorResponse, "description": "What `Range` asks for is no part of it."},
}
"""Of routes that send a file."""


def error_response(error: ChatError) -> JSONResponse:
    """An error with its status and headers."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return JSONResponse(error.body(), error.status, headers)


def chat_error(error: RayTaskError) -> ChatError:
    """What another deployment raised: its `ChatError`, or a fault of ours that keeps its details."""
    cause = error.cause
    return cause if isinstance(cause, ChatError) else fault(cause)


def fault(error: BaseException) -> ChatError:
    """A 500. The details are in the logs, under the request id, not in the answer."""
    return ChatError(f"An internal error: {type(error).__name__}.", code="internal_error")


def shape_errors(api: FastAPI) -> None:
    """Install the handlers."""
    api.add_exception_handler(ChatError, _on_chat_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http)
    api.add_exception_handler(Exception, _on_fault)


async def _on_chat_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return error_response(error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return error_response(invalid(f"The body is not JSON: {problem.get('ctx', {}).get('error', 'broken')}."))
    param = ".".join(str(part) for part in problem["loc"] if part != "body") or None
    return error_response(invalid(f"{param or 'body'}: {problem['msg']}", param=param))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind: ErrorKind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    response = error_response(ChatError(str(error.detail), status=error.status_code, kind=kind))
    response.headers.update(error.headers or {})
    return response


async def _on_fault(_: Request, error: Exception) -> Response:
    return error_response(fault(error))
