"""An adapter on the real stack: promoted, asked, shared, shadowed, demoted under traffic, and there again when its
base was killed."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from configs.adapters import Gate
from tests.deployments.adapters.made import QUESTION, TOKENS, gguf_adapter, published
from tests.integration.conftest import MIDDLE, NO_END, SMALL, Stack, wait_for

NAME, OTHER, REFUSED = "made-by-hand", "made-by-another", "refused"
MODEL, OTHERS = f"ft:{SMALL}:{NAME}", f"ft:{SMALL}:{OTHER}"
SESSIONS = [f"session {n}" for n in range(40)]


@pytest.fixture(scope="module")
def trained(stack: Stack) -> Iterator[Stack]:
    """The stack, with adapters that were trained and are not promoted."""
    adapters = stack.settings.home.adapters
    shutil.rmtree(adapters, ignore_errors=True)
    gates = {
        NAME: Gate(passed=True),
        OTHER: Gate(passed=True),
        REFUSED: Gate(passed=False, reasons=["it forgets"]),
    }
    for which, (name, gate) in enumerate(gates.items()):
        (adapters / name).mkdir(parents=True)
        gguf_adapter(adapters / name / "adapter.gguf", which)
        published(adapters, name, SMALL, {"gguf": "adapter.gguf"}, gate=gate)
    yield stack
    shutil.rmtree(adapters)


@pytest.fixture(autouse=True)
def none_is_left(trained: Stack) -> Iterator[None]:
    yield
    for name in (NAME, OTHER, REFUSED):
        act(trained, name, "demote")


def act(stack: Stack, name: str, what: str, **body: Any) -> httpx.Response:
    return stack.post(f"/adapters/{name}/{what}", body)


def promote(stack: Stack, name: str = NAME, **body: Any) -> dict[str, Any]:
    answer = act(stack, name, "promote", **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ask(stack: Stack, model: str, session: str = "", cache: str = "no-store") -> httpx.Response:
    """With `cache`, so that the answer ends by itself, as one must that is kept."""
    messages = [{"role": "user", "content": QUESTION}]
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS}
    body |= {} if cache else {"stop": [" is", " United"]}
    headers = {"x-groupqwen-session": session} if session else {}
    headers |= {"cache-control": cache} if cache else {}
    return stack.post("/chat/completions", {**body, "temperature": 0}, **headers)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-groupqwen-variant"]


def is_kept(stack: Stack, session: str) -> bool:
    return ask(stack, "trivial", session, cache="").headers["x-groupqwen-cache"] == "exact"


def compared(stack: Stack) -> dict[str, Any]:
    return dict(stack.get(f"/adapters/{NAME}").json()["compared"])


def test_promoted_it_answers_beside_its_base_which_is_not_restarted(trained: Stack, client: OpenAI) -> None:
    replica = trained.replica(SMALL)
    plain = said(ask(trained, SMALL))
    told = ask(trained, MODEL)
    assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")
    assert "not promoted" in told.json()["error"]["message"]
    assert "does not exist" in ask(trained, f"ft:{SMALL}:nobody").json()["error"]["message"]

    done = trained.run_cli("adapters", "promote", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert MODEL in done.stdout
    answer = ask(trained, MODEL)
    assert said(answer) != plain
    assert answer.json()["model"] == by(answer) == answer.json()["metadata"]["variant"] == MODEL
    assert said(ask(trained, SMALL)) == plain
    assert said(ask(trained, f"groupqwen/{MODEL}")) == said(answer)

    model = client.models.retrieve(MODEL)
    assert (model.parent, model.root, model.owned_by) == (SMALL, SMALL, "groupqwen")
    assert MODEL in [one.id for one in client.models.list()]
    assert [key.partition("@")[0] for key in trained.status(SMALL)["adapters"]] == [MODEL]
    assert all(size > 1 for size in trained.status(SMALL)["adapters"].values())

    wait_for(lambda: row_of(trained, answer) is not None, 40, "no row came")
    row = row_of(trained, answer)
    assert row is not None
    base_row = row_of(trained, ask(trained, SMALL)) or {"cost_usd": row["cost_usd"]}
    assert (row["variant"], row["requested"]) == (MODEL, MODEL)
    assert row["cost_usd"] == pytest.approx(base_row["cost_usd"], rel=0.5) and row["cost_usd"] > 0

    assert trained.run_cli("adapters", "demote", NAME).returncode == 0
    with pytest.raises(NotFoundError, match="not promoted"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert MODEL not in [one.id for one in client.models.list()]
    wait_for(lambda: not trained.status(SMALL)["adapters"], 40, "it has not left memory")
    assert trained.replica(SMALL) == replica


def row_of(stack: Stack, answer: httpx.Response) -> dict[str, Any] | None:
    found = stack.get(f"/requests/{answer.headers['x-request-id']}")
    return dict(found.json()) if found.status_code == 200 else None


def test_mixed_requests_answer_as_unmixed_ones(trained: Stack) -> None:
    promote(trained)
    promote(trained, OTHER)
    models = [SMALL, MODEL, OTHERS, SMALL, MODEL, OTHERS, MODEL, SMALL]
    alone = {model: said(ask(trained, model)) for model in models}
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(len(models)) as pool:
        mixed = list(pool.map(lambda model: said(ask(trained, model)), models))
    assert mixed == [alone[model] for model in models]


def test_a_share_is_drawn_by_conversation_and_the_cache_never_crosses(trained: Stack) -> None:
    promote(trained, share=0.5)

    def sides() -> dict[str, str]:
        with ThreadPoolExecutor(8) as pool:
            return dict(
                zip(SESSIONS, pool.map(lambda one: by(ask(trained, "trivial", one)), SESSIONS), strict=True)
            )

    drawn = sides()
    theirs = [one for one, variant in drawn.items() if variant == MODEL]
    assert 10 <= len(theirs) <= 30
    assert set(drawn.values()) == {MODEL, SMALL}
    assert sides() == drawn, "a conversation stays on its side"
    mine = next(one for one, variant in drawn.items() if variant == SMALL)

    trained.post("/cache/clear", {})
    told = {}
    for session, variant in ((theirs[0], MODEL), (mine, SMALL)):
        first = ask(trained, "trivial", session, cache="")
        assert (by(first), first.headers["x-groupqwen-cache"]) == (variant, "miss")
        # (Its client has the answer before the cache has it.)
        wait_for(lambda one=session: is_kept(trained, one), 40, "it was not kept")  # type: ignore[misc]
        again = ask(trained, "trivial", session, cache="")
        assert (by(again), again.headers["x-groupqwen-cache"]) == (variant, "exact")
        assert said(again) == said(first)
        assert [one.json()["metadata"]["route"]["arm"] for one in (first, again)] == [
            "adapter" if variant == MODEL else "base"
        ] * 2
        told[variant] = said(first)
    assert told[MODEL] != told[SMALL]
    assert {by(ask(trained, name)) for name in (SMALL, MODEL)} == {SMALL, MODEL}, "who is named is asked"
    with ThreadPoolExecutor(8) as pool:  # (All at once, with an empty cache: nobody hears the other side.)
        trained.post("/cache/clear", {})
        at_once = list(pool.map(lambda one: ask(trained, "trivial", one, cache=""), [theirs[0], mine] * 8))
    assert [said(one) for one in at_once] == [told[MODEL], told[SMALL]] * 8

    for session, rating in ((theirs[0], "up"), (theirs[1], "up"), (mine, "down")):
        judged = ask(trained, "trivial", session).headers["x-request-id"]
        assert trained.post("/feedback", {"request_id": judged, "rating": rating}).json()["known"]
    wait_for(
        lambda: compared(trained)["base"]["down"] == 1, 60, lambda: f"it was not counted: {compared(trained)}"
    )
    found = compared(trained)
    assert (found["adapter"]["up"], found["adapter"]["down"]) == (2, 0)
    assert found["adapter"]["requests"] + found["base"]["requests"] >= 2 * len(SESSIONS)
    assert found["adapter"]["good"] == 0.75
    assert found["better"] == pytest.approx(0.9, abs=0.001)

    act(trained, NAME, "demote")
    assert by(ask(trained, "trivial", theirs[0], cache="")) == SMALL, "nor does the cache speak for who is gone"


def test_an_opinion_counts_whichever_router_hears_it(trained: Stack) -> None:
    """The one that has answered is gone; another has never heard of the answer."""
    promote(trained, share=0.5)
    answers: dict[str, httpx.Response] = {}
    for session in SESSIONS:
        answer = ask(trained, "trivial", session)
        answers.setdefault(by(answer), answer)
        if len(answers) == 2:
            break
    before = trained.replica("Router")
    before.kill()
    wait_for(
        lambda: bool(trained.processes("Router")) and trained.replica("Router").pid != before.pid, 60, "no Router"
    )
    trained.wait_until_well()
    for variant, rating in ((MODEL, "up"), (SMALL, "down")):
        opinion = {"request_id": answers[variant].headers["x-request-id"], "rating": rating}
        assert trained.post("/feedback", opinion).json()["known"] is False

    def counted() -> bool:
        found = compared(trained)
        return [(found[arm]["up"], found[arm]["down"]) for arm in ("adapter", "base")] == [(1, 0), (0, 1)]

    wait_for(counted, 60, lambda: f"it was not counted: {compared(trained)}")


def test_a_shadow_is_asked_unheard_and_its_agreement_is_kept(trained: Stack) -> None:
    promote(trained, shadow=1.0)
    question = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}

    def one_more() -> bool:
        answer = trained.post("/chat/completions", {**question, "model": SMALL}, **{"cache-control": "no-store"})
        assert by(answer) == SMALL
        time.sleep(1)
        return bool(compared(trained)["shadow"]["answers"])

    wait_for(one_more, 60, "nobody asked it")
    assert 0 <= compared(trained)["shadow"]["agreement"] <= 1


def test_demotion_fails_nothing_that_is_under_way(trained: Stack, client: OpenAI) -> None:
    promote(trained, share=1.0)
    stop = threading.Event()
    seen: list[str] = []
    wrong: list[str] = []

    def traffic(client_number: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            answer = ask(trained, "trivial", f"{client_number} {number}")
            if answer.status_code == 200:
                seen.append(answer.headers["x-groupqwen-variant"])
            else:
                wrong.append(answer.text)

    clients = [threading.Thread(target=traffic, args=(n,)) for n in range(3)]
    for one in clients:
        one.start()
    messages: Any = [{"role": "user", "content": "Tell me a long story."}]
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=40, logit_bias=NO_END, stream=True
    )
    first = next(iter(stream))
    for _ in range(3):
        assert act(trained, NAME, "demote").status_code == 200
        after = ask(trained, "trivial", "after")
        assert by(after) == SMALL, "from the next request on"
        promote(trained, share=1.0)
        assert by(ask(trained, "trivial", "after")) == MODEL
    act(trained, NAME, "demote")
    rest = list(stream)
    stop.set()
    for one in clients:
        one.join()
    assert {chunk.model for chunk in (first, *rest)} == {MODEL}
    assert rest[-1].choices[0].finish_reason == "length"
    assert wrong == []
    assert set(seen) == {MODEL, SMALL}


def test_it_is_there_again_when_its_base_was_killed(trained: Stack) -> None:
    promote(trained)
    before = said(ask(trained, MODEL))
    trained.replica(SMALL).send_signal(signal.SIGKILL)
    wait_for(lambda: ask(trained, MODEL).status_code == 200, 60, "it has not come back")
    assert said(ask(trained, MODEL)) == before
    assert said(ask(trained, SMALL)) != before
    trained.wait_until_well()


def test_what_its_gate_refuses_is_promoted_by_force_only_and_that_is_written_down(trained: Stack) -> None:
    told = act(trained, REFUSED, "promote")
    assert (told.status_code, told.json()["error"]["code"]) == (409, "gate")
    assert "it forgets" in told.json()["error"]["message"]
    refused = trained.run_cli("adapters", "promote", REFUSED)
    assert refused.returncode != 0
    assert "it forgets" in refused.stdout + refused.stderr

    assert promote(trained, REFUSED, force=True)["promotion"]["forced"] is True
    assert trained.get(f"/adapters/{REFUSED}").json()["promotion"]["forced"] is True

    def acts() -> list[str]:
        return [one["act"] for one in trained.get("/audit").json()["acts"]]

    wait_for(lambda: any("by force" in one for one in acts()), 40, lambda: f"nobody wrote it down: {acts()}")
    assert f"promote {REFUSED} by force, although: it forgets" in acts()
    assert f"POST /v1/adapters/{REFUSED}/promote" in acts()
    assert promote(trained, NAME, force=True)["promotion"]["forced"] is False, "there was nothing to force"


def test_what_does_not_load_is_left_unpromoted(trained: Stack) -> None:
    adapters = trained.settings.home.adapters
    for name, base, forms in (
        ("broken", SMALL, {"gguf": "adapter.gguf"}),
        ("of-nobody", "qwen3-8b", {"gguf": "adapter.gguf"}),
        ("without", SMALL, {"peft": "adapter.gguf"}),
    ):
        (adapters / name).mkdir()
        (adapters / name / "adapter.gguf").write_bytes(b"GGUF" + bytes(64))
        published(adapters, name, base, forms)
    broken, of_nobody, without = (act(trained, name, "promote") for name in ("broken", "of-nobody", "without"))
    assert (broken.status_code, "no LoRA adapter" in broken.text) == (503, True), broken.text
    assert (of_nobody.status_code, of_nobody.json()["error"]["code"]) == (409, "base_not_served")
    assert (without.status_code, "needs it as gguf" in without.text) == (503, True)
    shown = {one["name"]: one for one in trained.get("/adapters").json()["adapters"]}
    assert shown.keys() == {NAME, OTHER, REFUSED, "broken", "of-nobody", "without"}
    assert all(one["promotion"] is None for one in shown.values())
    promote(trained)
    for name, status in (("broken", 200), ("of-nobody", 200), ("without", 200), (NAME, 409), ("broken", 404)):
        gone = httpx.delete(f"{trained.url}/adapters/{name}", headers=trained.headers, timeout=30)
        assert gone.status_code == status, (name, gone.text)
    assert said(ask(trained, MODEL))


def test_a_key_needs_its_base_and_none_but_admins_promote(trained: Stack) -> None:
    promote(trained)
    made = [trained.post("/keys", {"name": "of a test", "variants": [only]}).json() for only in (SMALL, MIDDLE)]
    theirs = {"Authorization": f"Bearer {made[1]['secret']}"}

    def counts() -> bool:
        return httpx.get(f"{trained.url}/models", headers=theirs, timeout=30).status_code == 200

    wait_for(counts, 40, "the key does not count")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    answers = [trained.post("/chat/completions", body, Authorization=f"Bearer {key['secret']}") for key in made]
    assert [answer.status_code for answer in answers] == [200, 403]
    assert act(trained, NAME, "demote").status_code == 200
    for path in ("", f"/{NAME}"):
        told = httpx.get(
            f"{trained.url}/adapters{path}", headers={"Authorization": f"Bearer {made[0]['secret']}"}, timeout=30
        )
        assert told.status_code == 403
    for key in made:
        httpx.delete(f"{trained.url}/keys/{key['id']}", headers=trained.headers, timeout=30)


def test_metrics_tell_adapters_apart(trained: Stack) -> None:
    promote(trained, share=1.0)
    ask(trained, "trivial", "of the metrics")
    wanted = (
        rf'groupqwen_adapter_requests_total{{[^}}]*arm="adapter"[^}}]*variant="{re.escape(MODEL)}"[^}}]*}} [1-9]',
        rf'groupqwen_engine_adapters{{[^}}]*variant="{re.escape(SMALL)}"[^}}]*}} [1-9]',
    )

    def there() -> bool:
        text = trained.get("/metrics").text
        return all(re.search(one, text) for one in wanted)

    wait_for(there, 60, "the metrics do not say so")
