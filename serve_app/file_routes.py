"""`/v1/files`: what jobs learn from, for keys with the scope `finetune`. A file is its key's: nobody else reads it
or learns from it. A key with the scope `admin` sees that it is there, and may delete it."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path as Folder
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import FileResponse
from openai.types import FileDeleted, FileObject
from pydantic import BaseModel
from starlette.datastructures import Headers, UploadFile
from starlette.types import Message, Receive, Scope, Send

from configs.home import home
from deployments.contract import ChatError, invalid, queue_full
from deployments.finetuning import lines
from deployments.finetuning.asked import new_file_id
from deployments.finetuning.job import FILE_ID, StoredFile, file_path
from deployments.finetuning.objects import file_object
from deployments.finetuning.states import told_when_full, unknown_file
from serve_app.admission import paced
from serve_app.errors import DISK_FULL, NO_SUCH_RANGE, error_response
from serve_app.finetune_routes import After, seen_by
from serve_app.keys import ApiKey
from serve_app.parts import asked

routes = APIRouter(prefix="/v1/files", dependencies=[Depends(paced)])

FileId = Annotated[str, Path(pattern=FILE_ID)]
MOST_NAME = 255
PURPOSE = "fine-tune"

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines."},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool


class JsonLines(FileResponse):
    """What is wrong with `Range` is told as any other error is."""

    media_type = "application/jsonl"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: Message | None = None

        async def looked_at(message: Message) -> None:
            nonlocal refused
            if message.get("status", 200) >= 400:
                refused = message
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, looked_at)
        if refused is not None:
            told = error_response(no_such_range(refused["status"]))
            # (How long the file is, which tells a client how to go on.)
            told.headers.update({k: v for k, v in Headers(raw=refused["headers"]).items() if k == "content-range"})
            await told(scope, receive, send)


def no_such_range(status: int) -> ChatError:
    """A 416, or where the header is no range at all a 400."""
    return ChatError(
        "The header `range` names no part of this file.",
        status=status,
        kind="invalid_request_error",
        code="no_such_range",
        param="range",
    )


_places = asyncio.Semaphore(1)


def allow(uploads: int) -> None:
    """So many at once. (One number for the process: Serve ships the routes before the Gateway is built.)"""
    global _places
    _places = asyncio.Semaphore(uploads)


@routes.post("", openapi_extra=FORM, responses=DISK_FULL)
async def upload(request: Request) -> FileObject:
    """Upload JSON lines to learn from (`purpose` is `fine-tune`): conversations as `{"messages": [{"role",
    "content"}]}`, or OpenAI's preferences. All of it is looked at: what is wrong is told with its line."""
    if _places.locked():
        raise queue_full(10.0)
    key: ApiKey = request.state.key
    # (Told before the bytes come, where it is known by then.)
    await asked("finetuning", "check_file_room", key.id)
    # The form goes to the disk as it comes; the border counts it.
    async with _places, request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid("The form has no `file`.", param="file")
        if form.get("purpose") != PURPOSE:
            raise invalid(f"Files are kept here to learn from: `purpose` must be {PURPOSE!r}.", param="purpose")
        return file_object(await _keep(file, key))


async def _keep(file: UploadFile, key: ApiKey) -> StoredFile:
    file_id = new_file_id()
    target = file_path(home(), file_id)
    staged = target.with_suffix(".new")
    try:
        with told_when_full():
            looked = await asyncio.to_thread(_look_and_copy, file, staged)
        name = (file.filename or "file.jsonl")[:MOST_NAME]
        stored = StoredFile(file_id, key.id, time.time(), name, looked.bytes, looked.lines, looked.sha256)
        # The row comes last: without one, nobody finds it.
        staged.replace(target)
        await asked("finetuning", "add_file", stored)
    except lines.BadLine as bad:
        raise invalid(
            f"{(file.filename or 'the file')[:MOST_NAME]}: {bad}", param="file", code="invalid_file"
        ) from None
    except BaseException:  # Also its client's leaving: without a row nobody would count or delete it.
        target.unlink(missing_ok=True)
        raise
    finally:
        staged.unlink(missing_ok=True)
    return stored


def _look_and_copy(file: UploadFile, target: Folder) -> lines.Looked:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.file.seek(0)
    looked = lines.look(file.file)
    file.file.seek(0)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        shutil.copyfileobj(file.file, out, 1 << 20)
    return looked


@routes.get("")
async def list_files(
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> FilePage:
    """Your files; with the scope admin everybody's."""
    if purpose not in (None, PURPOSE):
        return FilePage(data=[], has_more=False)
    found, more = await asked("finetuning", "files", seen_by(request), after, limit, newest=order == "desc")
    return FilePage(data=[file_object(file) for file in found], has_more=more)


@routes.get("/{file_id}")
async def retrieve(file_id: FileId, request: Request) -> FileObject:
    """One of them."""
    return file_object(await asked("finetuning", "file", file_id, seen_by(request)))


@routes.get("/{file_id}/content", response_class=JsonLines, responses=NO_SUCH_RANGE)
async def content(file_id: FileId, request: Request) -> JsonLines:
    """What one of your own files holds."""
    found: StoredFile = await asked("finetuning", "file", file_id, request.state.key.id)
    path = file_path(home(), found.id)
    if not path.is_file():
        raise unknown_file(file_id)
    return JsonLines(path)


@routes.delete("/{file_id}")
async def delete(file_id: FileId, request: Request) -> FileDeleted:
    """Forget a file. Jobs that learn from it have copies of their own."""
    await asked("finetuning", "remove_file", file_id, seen_by(request))
    return FileDeleted(id=file_id, object="file", deleted=True)
