"""The whole OpenAPI document against the real stack: what it allows, and what it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.integration.conftest import Stack


@pytest.fixture
def spare_key(stack: Stack) -> Iterator[str]:
    """The secret of a key that may do all, for a test that revokes and rotates keys by chance; it goes with all
    keys that the test has made."""
    before = {key["id"] for key in stack.get("/keys").json()["keys"]}
    yield str(stack.post("/keys", {"name": "spare", "scopes": ["chat", "admin"]}).json()["secret"])
    for key in stack.get("/keys").json()["keys"]:
        if key["id"] not in before:
            assert httpx.delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers).status_code == 200


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_that_the_document_allows_or_forbids_breaks_the_server(
    stack: Stack, spare_key: str, mode: GenerationMode
) -> None:
    """All operations of the document, none left out. (What revokes and rotates keys draws one of 2^48 ids, so it
    finds none; the tests' own key is not at stake even so. The WebSocket, which OpenAPI cannot describe, has
    test_fuzz.)"""
    schema = schemathesis.openapi.from_url(stack.url.removesuffix("/v1") + "/openapi.json")
    headers = {"Authorization": f"Bearer {spare_key}", "cache-control": "no-store"}
    asked: Counter[str] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        def check(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict) and "completions" in case.path:
                case.body |= {"max_tokens": 4, "max_completion_tokens": 4, "n": 1}
            response = case.call(headers=headers, timeout=120)
            if case.path == "/v1/drain":
                # Else what is asked next is refused, as it was wished.
                assert stack.post("/drain", {"on": False}).json()["draining"] is False
            assert response.status_code < 500, (case.path, case.body, response.text)
            told = case.operation.definition.raw["responses"]
            assert str(response.status_code) in told, (case.method, case.path, response.text)
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "type", "code", "param"}
            else:
                case.validate_response(response, checks=(response_schema_conformance, content_type_conformance))
            asked[f"{case.method} {case.path}"] += 1

        check()
    described = schema.raw_schema["paths"]
    assert set(asked) == {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert sum(asked.values()) > 100
    stack.wait_until_well()
