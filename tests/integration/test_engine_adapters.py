"""Adapters on the llama.cpp engine, with real weights, in this process: loaded when they are asked for, let go
when others come, and never one for another."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.adapters import AdapterManifest, Promotion, read_adapter, write_adapter
from deployments.chunks import fold
from deployments.contract import ADAPTER_BROKEN, NOT_READY, QUEUE_FULL, Adapter, ChatError, ChatRequest
from deployments.llamacpp.chat import ChatOptions, LlamaCppChat
from deployments.llamacpp.engine import EngineOptions
from deployments.llamacpp.sampling import SamplingOptions
from tests.deployments.adapters.made import QUESTION, TOKENS, gguf_adapter, published
from tests.integration.conftest import SMALL

MOST = 2
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters, promoted."""
    adapters = tmp_path_factory.mktemp("adapters")
    for which, name in enumerate(NAMES):
        (adapters / name).mkdir()
        gguf_adapter(adapters / name / "adapter.gguf", which)
        published(adapters, name, SMALL, {"gguf": "adapter.gguf"}, promotion=Promotion())
    return adapters


@pytest.fixture(scope="module")
def chat(weights: Callable[[str], Path], folder: Path) -> Iterator[LlamaCppChat]:
    engine = EngineOptions(context=512, kv_tokens=4096, parallel=4, max_queue=32)
    sampling = SamplingOptions(temperature=0)
    made = LlamaCppChat(weights(SMALL), ChatOptions(SMALL, engine, sampling, adapters=folder, max_adapters=MOST))
    yield made
    made.close()


def wanted(manifest: AdapterManifest) -> Adapter:
    return Adapter(manifest.model, manifest.digest)


def of(folder: Path, name: str) -> Adapter:
    return wanted(read_adapter(folder / name))


async def ask(chat: LlamaCppChat, adapter: Adapter | None, **fields: Any) -> Any:
    given = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS, **fields}
    chunks = []
    async with aclosing(chat.chat(ChatRequest.model_validate(given), "r", adapter=adapter)) as steps:
        async for found in steps:
            chunks += found
    return fold(chunks)


def said(answer: Any) -> str:
    return str(answer.choices[0].message.content)


async def test_it_is_loaded_when_it_is_asked_for_and_leaves_its_base_alone(
    chat: LlamaCppChat, folder: Path
) -> None:
    plain = await ask(chat, None)
    assert chat.adapters.report() == {}
    adapted = await ask(chat, of(folder, "one"))
    assert said(adapted) != said(plain)
    assert (plain.model, adapted.model) == (SMALL, f"ft:{SMALL}:one")
    size = (folder / "one" / "adapter.gguf").stat().st_size
    assert chat.adapters.report() == {of(folder, "one").key: round(size / 2**20, 2)}
    assert said(await ask(chat, None)) == said(plain)


async def test_mixed_requests_answer_as_unmixed_ones(chat: LlamaCppChat, folder: Path) -> None:
    """Also those that begin alike: what one has computed is nothing to another."""
    asked = [None, of(folder, "one"), None, of(folder, "two"), of(folder, "one"), None]
    alone = [said(await ask(chat, adapter)) for adapter in asked]
    assert len(set(alone)) == 3
    mixed = await asyncio.gather(*(ask(chat, adapter) for adapter in asked))
    assert [said(answer) for answer in mixed] == alone


async def test_a_load_holds_up_nobody(chat: LlamaCppChat, folder: Path) -> None:
    """While an answer is being written, an adapter comes, and goes again."""
    long = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 200, "logit_bias": {"2": -100}}
    running = asyncio.ensure_future(ask(chat, None, **long))
    await ask(chat, of(folder, "three"))
    await chat.adapters.keep_only(())
    assert not running.done()
    assert chat.adapters.report() == {}
    assert (await running).usage.completion_tokens == 200


async def test_the_one_that_was_unused_for_longest_goes(chat: LlamaCppChat, folder: Path) -> None:
    for name in ("one", "two", "one", "three"):
        await ask(chat, of(folder, name), max_tokens=1)
    assert list(chat.adapters.report()) == [of(folder, name).key for name in ("one", "three")]
    told = said(await ask(chat, of(folder, "two")))
    await chat.adapters.keep_only({of(folder, "one").key})
    assert chat.adapters.report() == {}
    assert said(await ask(chat, of(folder, "two"))) == told


async def test_while_all_places_are_in_use_another_is_refused(chat: LlamaCppChat, folder: Path) -> None:
    async with chat.adapters.using(of(folder, "one")), chat.adapters.using(of(folder, "two")):
        with pytest.raises(ChatError) as refused:
            await ask(chat, of(folder, "three"))
        await chat.adapters.keep_only(())
        assert len(chat.adapters.report()) == MOST, "what is used stays"
    assert (refused.value.status, refused.value.code) == (429, QUEUE_FULL)
    await ask(chat, of(folder, "three"), max_tokens=1)


async def test_who_leaves_while_it_is_loaded_loses_it_not(chat: LlamaCppChat, folder: Path) -> None:
    await chat.adapters.keep_only(())
    leaving = asyncio.ensure_future(ask(chat, of(folder, "one")))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert said(await ask(chat, of(folder, "one")))
    assert list(chat.adapters.report()) == [of(folder, "one").key]


async def test_new_weights_of_the_same_name_answer_at_once(chat: LlamaCppChat, folder: Path) -> None:
    before = read_adapter(folder / "three")
    old = said(await ask(chat, wanted(before)))
    gguf_adapter(folder / "three" / "adapter.gguf", 3)
    after = published(folder, "three", SMALL, {"gguf": "adapter.gguf"}, created=before.created + 1)
    write_adapter(folder / "three", after.model_copy(update={"promotion": Promotion()}))
    assert after.digest != before.digest
    assert said(await ask(chat, of(folder, "three"))) != old
    # The old ones are still in memory, and whoever was promised them is not given others; nor are they read anew.
    await chat.adapters.keep_only({after.key})
    with pytest.raises(ChatError, match="other weights") as gone:
        await ask(chat, wanted(before))
    assert gone.value.code == NOT_READY


async def test_what_is_wrong_with_it_is_named(chat: LlamaCppChat, folder: Path, tmp_path: Path) -> None:
    good = read_adapter(folder / "one")
    shutil.copytree(folder / "one", folder / "bad")

    async def refusal(adapter: Adapter | None = None, **changed: Any) -> ChatError:
        manifest = good.model_copy(update={"name": "bad", "promotion": Promotion(), **changed})
        write_adapter(folder / "bad", manifest)
        with pytest.raises(ChatError) as refused:
            await ask(chat, adapter or wanted(manifest))
        assert await ask(chat, None)
        return refused.value

    try:
        demoted = await refusal(promotion=None)
        assert (demoted.code, "demoted" in demoted.message) == (NOT_READY, True)
        assert "made for another" in (await refusal(Adapter(f"ft:{SMALL}:bad", "x"), base="another")).message
        assert "no adapter's name" in (await refusal(Adapter(f"ft:{SMALL}:../one", "x"))).message
        assert "no such adapter" in (await refusal(Adapter(f"ft:{SMALL}:absent", "x"))).message
        peft = {"peft": good.exports["gguf"]}
        assert "needs it as gguf" in (await refusal(exports=peft)).message
        elsewhere = good.exports["gguf"].model_copy(update={"path": "../one/adapter.gguf"})
        assert "outside" in (await refusal(exports={"gguf": elsewhere})).message
        (folder / "bad" / "adapter.gguf").write_bytes(b"GGUF" + bytes(1000))
        changed = await refusal()
        assert (changed.code, "checksum" in changed.message) == (ADAPTER_BROKEN, True)
        broken = published(folder, "bad", SMALL, {"gguf": "adapter.gguf"})
        said_why = await refusal(exports=broken.exports)
        assert "no LoRA adapter" in said_why.message
        assert len(said_why.message.split(": ")) > 2, "llama.cpp's own words"
        (folder / "bad" / "adapter.json").write_text("{")
        with pytest.raises(ChatError, match="manifest cannot be read"):
            await ask(chat, replace(wanted(good), model=f"ft:{SMALL}:bad"))
    finally:
        shutil.rmtree(folder / "bad")


async def test_memory_is_given_back(chat: LlamaCppChat, folder: Path) -> None:
    """What is loaded and freed a hundred times takes as much as once."""
    adapter = of(folder, "one")

    async def in_and_out(times: int) -> int:
        for _ in range(times):
            async with chat.adapters.using(adapter):
                pass
            await chat.adapters.keep_only(())
        return psutil.Process().memory_info().rss

    before = await in_and_out(10)
    grown = await in_and_out(100) - before
    assert grown < 20 * (folder / "one" / "adapter.gguf").stat().st_size


async def test_an_engine_that_has_stopped_says_so(weights: Callable[[str], Path], folder: Path) -> None:
    stopped = LlamaCppChat(
        weights(SMALL), ChatOptions(SMALL, EngineOptions(context=256, kv_tokens=256), adapters=folder)
    )
    stopped.engine.close()
    with pytest.raises(ChatError) as gone:
        await ask(stopped, of(folder, "one"))
    stopped.weights.close()
    assert gone.value.status == 503
