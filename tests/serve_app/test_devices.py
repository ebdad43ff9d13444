from __future__ import annotations

from typing import Any

from starlette.requests import Request

from serve_app.context import request_context
from serve_app.devices import Devices, addresses
from serve_app.keys import ApiKey
from tests.waiting import until


def node(address: str, *resources: str, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "NodeManagerAddress": address, "Resources": dict.fromkeys(resources, 1.0)}


HEAD = node("100.64.0.1", "groupqwen_head", "CPU")
MAC = node("100.64.0.9", "groupqwen_macbook")


def test_only_machines_that_are_there_and_are_not_the_head_are_known_by_their_address() -> None:
    assert addresses([HEAD, MAC], ["macbook", "mobile"]) == {"100.64.0.9": "macbook"}
    assert addresses([HEAD, MAC], ["mobile"]) == {}
    assert addresses([HEAD, node("100.64.0.9", "groupqwen_macbook", alive=False)], ["macbook"]) == {}
    shared = node("100.64.0.1", "groupqwen_macbook")
    assert addresses([HEAD, shared], ["macbook"]) == {}, "everyone on the head has its address"


async def test_nobody_waits_for_ray_and_it_is_asked_now_and_then() -> None:
    asked = []

    def nodes() -> list[Any]:
        asked.append(1)
        return [HEAD, MAC]

    devices = Devices(["macbook"], nodes)
    assert devices.at("100.64.0.9") is None
    await until(lambda: devices.at("100.64.0.9") == "macbook")
    assert devices.at("100.64.0.8") is None
    assert devices._asking is None
    assert len(asked) == 1


async def test_what_was_known_holds_while_ray_cannot_be_asked() -> None:
    answers: list[Any] = [[MAC]]

    def nodes() -> list[Any]:
        if not answers:
            raise ConnectionError("restarting")
        return list(answers.pop())

    devices = Devices(["macbook"], nodes)
    await until(lambda: devices.at("100.64.0.9"))
    devices._asked = float("-inf")
    devices.at("100.64.0.9")
    assert devices._asking is not None, "it is asked anew"
    await until(lambda: devices._asking is None)
    assert devices.at("100.64.0.9") == "macbook"


async def test_a_profile_without_nodes_asks_nothing() -> None:
    devices = Devices([], lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert devices.at("100.64.0.9") is None


def test_a_request_says_where_it_comes_from_or_its_address_does() -> None:
    def device_of(known: str | None, *headers: tuple[bytes, bytes]) -> str:
        state = {"key": ApiKey("k", "test", "", 0), "request_id": "r", "device": known}
        scope = {"type": "http", "headers": list(headers), "state": state}
        return request_context(Request(scope)).device

    said = (b"x-groupqwen-device", b"Mobile")
    assert device_of(None) == "server"
    assert device_of("macbook") == "macbook"
    assert device_of("macbook", said) == "mobile"
    assert device_of("macbook", (b"x-groupqwen-device", b"toaster")) == "server"
