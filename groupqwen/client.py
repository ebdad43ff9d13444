"""The command's own questions to the group that runs here."""

from __future__ import annotations

from typing import Any, cast

import httpx
from rich.console import Console
from rich.table import Column, Table

from configs.home import home
from groupqwen.stack.deploy import http
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings

PATIENCE = 30.0
"""For what no model answers; and for a whole answer, beyond what the group itself gives it."""


def endpoint_and_key() -> tuple[str, str]:
    """Where the running group answers, and its owner's key. Raises `StartProblem`."""
    from groupqwen.stack.credentials import load_credentials

    return endpoint_of_the_group(), load_credentials(home()).api_key


def endpoint_of_the_group() -> str:
    """Where the running group answers. Raises `StartProblem`."""
    return _of_the_group().endpoint


def whole_answer_seconds() -> float:
    """So long a whole answer of the running group may take. Raises `StartProblem`."""
    return _of_the_group().profile.limits.request_seconds + PATIENCE


def _of_the_group() -> Settings:
    from groupqwen.stack.lifecycle import remembered, settings_for

    choices = remembered(home())
    if choices is None:
        raise StartProblem("nothing has been started here yet: run `bash scripts/up.sh`")
    return settings_for(home(), choices)


def get(
    endpoint: str, key: str, path: str, accept: tuple[int, ...] = (200,), parameters: dict[str, Any] | None = None
) -> httpx.Response:
    """Ask as the owner. Raises `StartProblem` for anything but an answer that is accepted."""
    return _answer("GET", endpoint, key, path, accept, params=parameters)


def ask(endpoint: str, key: str, path: str, body: dict[str, Any], seconds: float = PATIENCE) -> httpx.Response:
    """Post as the owner, and wait so long. Raises `StartProblem` for anything but a 200."""
    return _answer("POST", endpoint, key, path, (200,), json=body, timeout=seconds)


def _answer(
    method: str, endpoint: str, key: str, path: str, accept: tuple[int, ...], **given: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    try:
        response = http().request(method, endpoint + path, headers=headers, **{"timeout": PATIENCE, **given})
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise StartProblem(f"{endpoint}{path} did not answer in time: `groupqwen top` shows why") from error
    except httpx.HTTPError as error:
        raise StartProblem(f"{endpoint} does not answer: run `bash scripts/up.sh`") from error
    if response.status_code not in accept:
        raise StartProblem(f"{endpoint}{path} answered {response.status_code}: {response.text[:300]}")
    return response


def ask_first_question(endpoint: str, key: str, console: Console) -> None:
    """One question, its answer, and why that variant gave it. Raises `StartProblem`."""
    question = "What is the capital of France? Answer in one sentence."
    response = http().post(
        f"{endpoint}/chat/completions",
        headers={"Authorization": f"Bearer {key}", "cache-control": "no-store"},
        json={"messages": [{"role": "user", "content": question}], "max_tokens": 60},
        timeout=120,
    )
    if response.status_code != 200:
        raise StartProblem(f"the first question failed: {response.status_code} {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    about = answer["metadata"]
    console.print(f"\n[bold]You[/bold]  {question}")
    console.print(f"[bold]{about['variant']}[/bold]  {answer['choices'][0]['message']['content'].strip()}")
    console.print(f"[dim]why: {response.headers['x-groupqwen-decision']}; {about['latency_ms']:.0f} ms[/dim]\n")


def print_answer(
    endpoint: str, key: str, model: str, history: list[dict[str, str]], explain: bool, console: Console
) -> str:
    """Stream an answer to the terminal; what was said. Raises `StartProblem`."""
    from openai import OpenAI, OpenAIError
    from openai.types.chat import ChatCompletionMessageParam

    client = OpenAI(base_url=endpoint, api_key=key)
    said: list[str] = []
    about: dict[str, Any] = {}
    try:
        messages = cast(list[ChatCompletionMessageParam], history)
        stream = client.chat.completions.create(model=model, messages=messages, stream=True)
        for chunk in stream:
            for choice in chunk.choices:
                said.append(choice.delta.content or "")
                console.print(choice.delta.content or "", end="", markup=False, highlight=False)
            about = (chunk.model_extra or {}).get("metadata") or about
    except OpenAIError as error:
        raise StartProblem(str(error)) from error
    console.print()
    if explain and about:
        route = about.get("route") or {}
        console.print(f"[dim]{about.get('variant')}: {route.get('reason')}; {about.get('latency_ms')} ms[/dim]")
    return "".join(said)


SIGNALS = ("complexity", "level", "task", "domain", "device", "preference", "escalation_threshold", "decided_ms")


def print_route(endpoint: str, key: str, model: str, question: str, console: Console) -> None:
    """What would answer a question, and why the others would not. Raises `StartProblem`."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    route = ask(endpoint, key, "/route", body).json()
    weighed = any(candidate["correct"] is not None for candidate in route["candidates"])
    figures = ("P(right)", "cost", "seconds") if weighed else ()
    columns = [Column(figure, justify="right") for figure in figures]
    table = Table(Column("variant", no_wrap=True), *columns, "why")
    for candidate in route["candidates"]:
        chosen = candidate["variant"] == route["variant"]
        bold = "bold" if chosen else ""
        expected = [candidate[name] for name in ("correct", "cost", "seconds")] if weighed else []
        shown = ["" if value is None else f"{value:.2f}" for value in expected]
        why = route["reason"] if chosen else candidate["passed_over"]
        table.add_row(candidate["variant"], *shown, why, style=bold)
    console.print(table)
    signals = {name: route[name] for name in SIGNALS}
    console.print("; ".join(f"{name} {value}" for name, value in signals.items() if value is not None))
