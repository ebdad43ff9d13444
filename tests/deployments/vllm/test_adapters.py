from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from configs.adapters import Promotion
from deployments.contract import ADAPTER_BROKEN, Adapter, ChatError
from deployments.vllm.adapters import Adapters
from tests.deployments.adapters.made import peft_adapter, published

BASE = "smollm2-135m-bf16"


class Told:
    """An engine that writes down what it is told. (vLLM itself: tests/integration/test_vllm.py.)"""

    def __init__(self, refuses: str = "") -> None:
        self.known: dict[str, Path] = {}
        self.refuses = refuses

    @property
    def adapters(self) -> list[str]:
        return list(self.known)

    async def learn(self, key: str, folder: Path) -> None:
        if self.refuses:
            raise ValueError(self.refuses)
        assert key not in self.known
        self.known[key] = folder

    async def forget(self, key: str) -> None:
        del self.known[key]


@pytest.fixture
def wanted(tmp_path: Path) -> Adapter:
    peft_adapter(tmp_path / "a" / "peft")
    manifest = published(tmp_path, "a", BASE, {"peft": "peft"}, promotion=Promotion())
    return Adapter(manifest.model, manifest.digest)


async def test_it_is_told_once_and_forgets_when_nobody_uses_it(tmp_path: Path, wanted: Adapter) -> None:
    engine, adapters = Told(), Adapters(tmp_path, BASE, enabled=True)

    async def use() -> str:
        async with adapters.using(engine, wanted) as key:
            await adapters.keep_only(engine, ())
            assert engine.known == {key: tmp_path / "a" / "peft"}, "what is used stays"
            return key

    assert set(await asyncio.gather(*(use() for _ in range(5)))) == {wanted.key}
    assert adapters.report(engine)[wanted.key] > 1
    await adapters.keep_only(engine, {wanted.key})
    assert engine.adapters == [wanted.key]
    await adapters.keep_only(engine, ())
    assert engine.adapters == []


async def test_what_is_wrong_is_named(tmp_path: Path, wanted: Adapter) -> None:
    async def refusal(adapters: Adapters, engine: Told) -> ChatError:
        with pytest.raises(ChatError) as refused:
            async with adapters.using(engine, wanted):
                pass
        return refused.value

    without = await refusal(Adapters(tmp_path, BASE, enabled=False), Told())
    assert (without.code, "enable_lora" in without.message) == (ADAPTER_BROKEN, True)
    too_large = await refusal(Adapters(tmp_path, BASE, enabled=True), Told("LoRA rank 256 is greater than 128"))
    assert "greater than 128" in too_large.message
    (tmp_path / "a" / "peft" / "adapter_config.json").write_text("{}")
    changed = await refusal(Adapters(tmp_path, BASE, enabled=True), Told())
    assert "checksum" in changed.message
