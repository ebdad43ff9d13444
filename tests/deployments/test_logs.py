from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError
from ray._common.formatters import JSONFormatter
from ray.exceptions import RayTaskError

from deployments.contract import ChatError, engine_gone, invalid
from deployments.logs import Discreet, ToServe, said_of, trace_of

SECRET = "c4n4ry-w0rd"


class Number(BaseModel):
    value: int


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def wrong() -> BaseException:
    try:
        Number.model_validate({"value": SECRET})
    except ValidationError as error:
        return error
    raise AssertionError


@pytest.fixture()
def lines() -> Iterator[list[dict[str, object]]]:
    """What Serve's logger would write, within a request."""
    found: list[dict[str, object]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JSONFormatter().format(record)))

    serve = logging.getLogger("ray.serve")
    handlers, filters, level = serve.handlers, serve.filters, serve.level
    serve.handlers, serve.filters = [Kept()], [Discreet(lambda: True)]
    serve.setLevel("WARNING")
    yield found
    serve.handlers, serve.filters = handlers, filters
    serve.setLevel(level)


@pytest.mark.parametrize(
    "error",
    [
        wrong(),
        ValueError(SECRET),
        KeyError(SECRET),
        UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET),
        json.JSONDecodeError(SECRET, SECRET, 0),
        invalid(SECRET),
        ChatError(SECRET, status=500),
        RuntimeError(SECRET),
        RayTaskError("chat", SECRET, ValueError(SECRET)),
        RayTaskError("chat", SECRET, ValueError(SECRET)).as_instanceof_cause(),
    ],
)
def test_an_exception_within_a_request_does_not_quote_it(
    error: BaseException, lines: list[dict[str, object]]
) -> None:
    serve = logging.getLogger("ray.serve")
    try:
        raise OSError(28, "No space left") from raised(error)
    except OSError:
        serve.exception("Request failed.")
    serve.warning("it failed: %s", error)
    assert SECRET not in json.dumps(lines)
    assert "No space left" in str(lines[0]["exc_text"])
    assert type(error).__name__.partition("(")[0] in str(lines[1]["message"])


def test_where_it_was_raised_is_told() -> None:
    told = trace_of(raised(ValueError(SECRET)))
    assert "in raised" in told and told.endswith("ValueError")
    assert said_of(engine_gone("small")) == "ChatError: 503 engine_unavailable"
    assert said_of(ConnectionRefusedError(111, "Connection refused")) == (
        "ConnectionRefusedError: [Errno 111] Connection refused"
    )


def test_a_refusal_is_no_failure(lines: list[dict[str, object]]) -> None:
    serve = logging.getLogger("ray.serve")

    def refuse() -> None:
        try:
            raise invalid(SECRET, code="too_bad")
        except ChatError:
            serve.exception("Request failed.")

    refuse()
    assert lines == []
    serve.setLevel("INFO")
    refuse()
    assert [(line["levelname"], line["message"]) for line in lines] == [
        ("INFO", "refused: ChatError: 400 too_bad")
    ]


@pytest.fixture()
def other() -> Iterator[logging.Logger]:
    """Another library's logger, as the root's handler would hear it."""
    logger, handler = logging.getLogger("asyncio.of.a.test"), ToServe(logging.WARNING)
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_what_other_libraries_warn_of_is_written_too(
    lines: list[dict[str, object]], other: logging.Logger
) -> None:
    other.warning("%d connections were lost", 3)
    other.info("all is well")
    assert [line["message"] for line in lines] == ["3 connections were lost"]


def test_what_other_libraries_quote_is_not(lines: list[dict[str, object]], other: logging.Logger) -> None:
    """As asyncio does, of what its callbacks were given and its tasks have raised; in a request or not."""
    logging.getLogger("ray.serve").filters = [Discreet(lambda: False)]
    error = raised(ValueError(SECRET))
    about = f"future: <Task finished exception={error!r}>"
    other.error("Task exception was never retrieved\n%s", about, exc_info=error)
    other.error("Exception in callback put_all(%r)", [SECRET])
    assert SECRET not in json.dumps(lines)
    messages = [line["message"] for line in lines]
    assert messages == ["Task exception was never retrieved", "Exception in callback put_all"]
    assert str(lines[0]["exc_text"]).endswith("ValueError")
