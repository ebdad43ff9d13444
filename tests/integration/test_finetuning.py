"""Fine-tuning on the real stack, as clients meet it, OpenAI's own among them: files, pages, keys and limits.
What a job's process does is a stand-in's (tests/deployments/finetuning/stand_in.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from groupqwen.stack.deploy import http
from tests.integration.conftest import MIDDLE, SMALL, Stack, wait_for
from tests.integration.training import (
    LONG,
    QUICK,
    about,
    begin,
    cancel,
    lines_of,
    upload,
    wait_for_end,
)


@pytest.fixture
def others(group: Stack) -> Iterator[Any]:
    """Makes clients with keys of their own, which are gone afterwards."""
    made: list[str] = []

    def new(*scopes: str, **granted: Any) -> tuple[OpenAI, str]:
        key = group.post("/keys", {"name": "of a test", "scopes": list(scopes), **granted}).json()
        made.append(key["id"])
        client = group.client(api_key=key["secret"])

        def counts() -> bool:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return False
            except openai.PermissionDeniedError:
                pass
            return True

        wait_for(counts, 20, "a new key does not count")
        return client, key["id"]

    yield new
    for key_id in made:
        http().delete(f"{group.url}/keys/{key_id}", headers=group.headers)


# -- OpenAI's client ---------------------------------------------------------------------------------


def test_openai_s_client_uploads_trains_and_looks(group: Stack) -> None:
    client = group.client()
    file = client.files.create(file=("chats.jsonl", lines_of(QUICK)), purpose="fine-tune")
    assert (file.filename, file.bytes, file.purpose) == ("chats.jsonl", len(lines_of(QUICK)), "fine-tune")
    assert client.files.content(file.id).content == lines_of(QUICK)
    job = client.fine_tuning.jobs.create(
        model=SMALL,
        training_file=file.id,
        validation_file=file.id,
        suffix="My Habit",
        seed=7,
        metadata={"why": "a test"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    assert job.status == "queued" and job.fine_tuned_model is None
    # What it learns from is its own by now.
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    wait_for(
        lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded",
        240,
        lambda: f"{about(group, job.id)}",
    )
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model == f"ft:{SMALL}:my-habit"
    assert (done.seed, done.metadata, done.hyperparameters.n_epochs) == (7, {"why": "a test"}, 2)
    assert done.finished_at is not None and done.finished_at >= done.created_at
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [int(event.id.rpartition("-")[2]) for event in events] == list(range(len(events)))[::-1], "all pages"
    assert events[0].message == "The job has succeeded"
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [one.step_number for one in checkpoints] == [4, 2]
    assert checkpoints[0].metrics.train_loss == 0.5
    shown = about(group, job.id)
    assert shown["recipe"]["epochs"] == 2 and shown["recipe"]["batch"] * shown["recipe"]["accumulation"] == 4
    assert shown["curve"]["training"] == [[1, 2.0], [2, 1.0], [3, 2 / 3], [4, 0.5]]
    assert [step for step, _ in shown["curve"]["validation"]] == [2, 4]
    assert "a stand-in" in group.get(f"/finetune/{job.id}/logs").text


def test_jobs_and_files_come_in_pages(group: Stack) -> None:
    client = group.client()
    files = [upload(group, **QUICK) for _ in range(3)]
    assert [file.id for file in client.files.list(limit=2)][:3] == files[::-1]
    assert client.files.list(limit=1, order="asc").data[0].id != files[-1]
    jobs = [begin(group, **QUICK) for _ in range(2)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)][:2] == jobs[::-1]
    shown = group.get(f"/finetune?limit=1&after={jobs[1]}").json()
    assert ([job["id"] for job in shown["jobs"]], shown["has_more"]) == (jobs[:1], True)
    first, second = (wait_for_end(group, job) for job in jobs)
    assert first["state"] == second["state"] == "succeeded"
    assert first["finished"] <= second["started"], "one after the other, in order"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no conversation"),
        (lines_of(QUICK) + b"{", "chats.jsonl: line 2: no JSON"),
        (
            lines_of(QUICK) + b'{"messages": [{"role": "user", "content": 3}]}',
            "line 2: messages.0.content: a text",
        ),
    ],
)
def test_a_file_that_cannot_be_learned_from_is_refused_with_its_line(
    group: Stack, content: bytes, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        group.client().files.create(file=("chats.jsonl", content), purpose="fine-tune")
    assert refused.value.code == "invalid_file"
    folder = group.settings.home.training / "files"
    assert not [path for path in folder.iterdir() if path.suffix == ".new"]


def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(group: Stack) -> None:
    """Whether its length is told before or not; and what is within it takes no memory of the Gateway's."""
    line = lines_of({"text": "x" * 1_000_000})
    url, headers = f"{group.url}/files", group.headers
    before = set((group.settings.home.training / "files").iterdir())
    gateway = group.replica("Gateway")
    rss = gateway.memory_info().rss
    for _ in range(2):
        sent = http().post(
            url, headers=headers, data={"purpose": "fine-tune"}, files={"file": ("a", line * 120)}, timeout=120
        )
        assert (sent.status_code, sent.json()["error"]["code"]) == (413, "request_too_large")

    def chunks() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(120):
            yield line

    kind = {"content-type": "multipart/form-data; boundary=b"}
    try:
        sent = http().post(url, headers=headers | kind, content=chunks(), timeout=120)
        assert (sent.status_code, sent.json()["error"]["code"]) == (413, "request_too_large")
    except httpx.WriteError:
        pass  # It was cut off while it was still sending.
    large = http().post(
        url, headers=headers, data={"purpose": "fine-tune"}, files={"file": ("a", line * 90)}, timeout=120
    )
    assert large.status_code == 200, large.text
    assert gateway.memory_info().rss - rss < 60 << 20
    assert group.client().files.delete(large.json()["id"]).deleted
    assert set((group.settings.home.training / "files").iterdir()) == before


def test_what_is_asked_for_wrongly_is_told(group: Stack) -> None:
    file = upload(group, **QUICK)
    right = {"base": SMALL, "name": "habit", "training_file": file}
    for change, status, said in (
        ({"base": "nobody"}, 404, "nobody"),
        ({"base": f"ft:{SMALL}:nobody"}, 404, "no adapter"),
        ({"recipe": "nobody's"}, 400, "there are reference"),
        ({"overrides": {"rank": 0}}, 400, "overrides.rank"),
        ({"training_file": None}, 400, "either"),
        ({"dataset": "mine"}, 400, "either"),
        ({"training_file": None, "dataset": "nobody-s"}, 404, "no dataset"),
        ({"training_file": "file-" + "0" * 32}, 404, "no file"),
        ({"validation_file": "file-" + "0" * 32}, 404, "no file"),
        ({"name": "../x"}, 400, "name"),
    ):
        answer = group.post("/finetune/start", right | change)
        assert answer.status_code == status and said in answer.json()["error"]["message"], (change, answer.text)
    for path in ("/files/..%2F..%2Fkeys.json", "/files/file-x/content", "/finetune/x", "/fine_tuning/jobs/x"):
        assert group.get(path).status_code in (400, 404)
    with pytest.raises(openai.BadRequestError, match="reinforcement"):
        group.client().fine_tuning.jobs.create(model=SMALL, training_file=file, method={"type": "reinforcement"})


# -- whose is what -------------------------------------------------------------------------------------


def test_each_key_has_its_own_and_the_owner_sees_all_jobs(group: Stack, others: Any) -> None:
    (mine, mine_id), (other, _) = others("finetune"), others("finetune", "chat", variants=[MIDDLE])
    chat, _ = others("chat")
    file = mine.files.create(file=("chats.jsonl", lines_of(LONG)), purpose="fine-tune")
    job = mine.fine_tuning.jobs.create(model=SMALL, training_file=file.id, suffix="mine")
    for refused in (chat.files.list, chat.fine_tuning.jobs.list, mine.models.list):
        with pytest.raises(openai.PermissionDeniedError):
            refused()
    assert [one.id for one in mine.fine_tuning.jobs.list()] == [job.id]
    assert list(other.fine_tuning.jobs.list()) == [] and list(other.files.list()) == []
    for hidden in (
        lambda: other.files.retrieve(file.id),
        lambda: other.files.content(file.id),
        lambda: other.files.delete(file.id),
        lambda: group.client().files.content(file.id),
        lambda: other.fine_tuning.jobs.retrieve(job.id),
        lambda: other.fine_tuning.jobs.cancel(job.id),
        lambda: other.fine_tuning.jobs.list_events(job.id),
        lambda: other.fine_tuning.jobs.create(model=MIDDLE, training_file=file.id),
    ):
        with pytest.raises(openai.NotFoundError):
            hidden()
    own = other.files.create(file=("chats.jsonl", lines_of(QUICK)), purpose="fine-tune")
    with pytest.raises(openai.PermissionDeniedError, match="may not use"):
        other.fine_tuning.jobs.create(model=SMALL, training_file=own.id)
    assert job.id in [one["id"] for one in group.get("/finetune").json()["jobs"]]
    assert about(group, job.id)["key_id"] == mine_id
    assert cancel(group, job.id)["state"] == "cancelled"
    wait_for(
        lambda: f"POST /v1/finetune/{job.id}/cancel" in [act["act"] for act in group.get("/audit").json()["acts"]],
        20,
        "what was done leaves no row",
    )


def test_the_owner_sees_that_files_are_there_and_may_delete_them(group: Stack, others: Any) -> None:
    mine, mine_id = others("finetune")
    file = mine.files.create(file=("chats.jsonl", lines_of(QUICK)), purpose="fine-tune")
    owner = group.client()
    assert owner.files.retrieve(file.id).to_dict()["key_id"] == mine_id
    assert file.id in [one.id for one in owner.files.list()]
    refused = group.post("/finetune/start", {"base": SMALL, "name": "a", "training_file": file.id})
    assert refused.status_code == 404, "nor learns from it"
    assert owner.files.delete(file.id).deleted
    assert list(mine.files.list()) == []


def test_a_key_has_room_of_its_own_for_files(group: Stack, others: Any) -> None:
    mine, _ = others("finetune")
    large = lines_of({"text": "x" * 1_000_000}) * 60
    first = mine.files.create(file=("a", large), purpose="fine-tune")
    with pytest.raises(openai.PermissionDeniedError, match="delete some first") as refused:
        mine.files.create(file=("b", large), purpose="fine-tune")
    assert refused.value.code == "file_quota"
    assert [file.id for file in mine.files.list()] == [first.id]
    assert group.client().files.delete(upload(group, **QUICK)).deleted, "others have theirs"
    mine.files.delete(first.id)
    mine.files.delete(mine.files.create(file=("b", large), purpose="fine-tune").id)


def test_a_key_s_limits_hold_on_these_routes_too(group: Stack, others: Any) -> None:
    mine, _ = others("finetune", limits={"requests_per_minute": 3})
    for _ in range(3):
        with pytest.raises(openai.NotFoundError):
            mine.files.retrieve("file-" + "0" * 32)
    for refused in (mine.files.list, mine.fine_tuning.jobs.list):
        with pytest.raises(openai.RateLimitError, match="3 requests a minute"):
            refused()


def test_streams_of_events_are_counted_and_end_with_their_client(group: Stack, others: Any) -> None:
    (mine, _), (narrow, _) = others("finetune"), others("finetune", limits={"concurrent": 1})
    jobs = {}
    for name, client in (("mine", mine), ("narrow", narrow)):
        file = client.files.create(file=("chats.jsonl", lines_of(LONG)), purpose="fine-tune")
        jobs[client] = client.fine_tuning.jobs.create(
            model=SMALL, training_file=file.id, suffix=f"followed-{name}"
        ).id

    def code(client: OpenAI, held: ExitStack | None = None) -> str | None:
        """Of a refusal of a stream; None: it begins, and goes on while `held` does."""
        with ExitStack() as own:
            url = f"{group.url}/finetune/{jobs[client]}/events"
            headers = {"authorization": f"Bearer {client.api_key}"}
            answer = (held or own).enter_context(http().stream("GET", url, headers=headers, timeout=30))
            if answer.status_code == 429:
                answer.read()
                return str(answer.json()["error"]["code"])
            assert answer.status_code == 200
            return None

    with ExitStack() as held:
        assert [code(mine, held) for _ in range(3)] == [None, None, "too_many_streams"]
        assert len(list(mine.fine_tuning.jobs.list())) == 1, "what is no stream is answered"
        assert code(narrow, held) is None
        with pytest.raises(openai.RateLimitError, match="under way"):
            narrow.fine_tuning.jobs.list()
    for client in (mine, narrow):
        wait_for(lambda client=client: code(client) is None, 40, "who has left holds its place")  # type: ignore[misc]
        cancel(group, jobs[client])
