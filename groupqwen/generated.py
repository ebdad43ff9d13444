"""Files that are made from the code, so that they cannot drift: a test holds them current.

`python scripts/generate.py` writes them: JSON Schemas of the configuration, the API reference, Ray's dashboards
for Grafana, and the screen of `groupqwen top` in the documentation, from the frame that was recorded beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.catalog import Catalog
from configs.curation import CurationRules
from configs.document import Strict
from configs.gates import GateRules
from configs.profile import Profile
from configs.routing import Routing
from groupqwen.top.picture import picture

ROOT = Path(__file__).parent.parent


def files() -> dict[Path, str]:
    """Every generated file and what must be in it."""
    schemas: dict[str, type[Strict]] = {
        "curation": CurationRules,
        "gates": GateRules,
        "models": Catalog,
        "profile": Profile,
        "routing": Routing,
    }
    made = {
        ROOT / "configs" / "schemas" / f"{name}.schema.json": json.dumps(
            model.model_json_schema(), indent=2, sort_keys=True
        )
        + "\n"
        for name, model in schemas.items()
    }
    made[ROOT / "docs" / "API_REFERENCE.md"] = api_reference()
    for name, text in ray_dashboards().items():
        made[ROOT / "configs" / "grafana" / "dashboards" / "Ray" / f"{name}.json"] = text
    plots = ROOT / "docs" / "plots"
    made[plots / "top.svg"] = picture((plots / "top.json").read_text())
    return made


def ray_dashboards() -> dict[str, str]:
    """Those that Ray's own dashboard shows in frames, as Ray writes them into its session's folder at each start.
    Its other ones are of libraries that are not used here."""
    from ray.dashboard.modules.metrics import grafana_dashboard_factory as ray

    made = {
        "default": ray.generate_default_grafana_dashboard,
        "serve": ray.generate_serve_grafana_dashboard,
        "serve_deployment": ray.generate_serve_deployment_grafana_dashboard,
    }
    return {name: json.dumps(json.loads(make()[0]), separators=(",", ":")) + "\n" for name, make in made.items()}


def write(wanted: dict[Path, str]) -> list[Path]:
    """Write what is not current; returns what was written."""
    written = []
    for path, text in wanted.items():
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            written.append(path)
    return written


def api_reference() -> str:
    """The API in Markdown, from its OpenAPI document."""
    from serve_app.gateway import api

    document = api.openapi()
    lines = [
        "# API reference",
        "",
        "Made from the OpenAPI document by `python scripts/generate.py`; `/docs` of an endpoint shows it too.",
        "Send the key as `Authorization: Bearer gq-…`. Only `/v1/health`, `/docs`, `/openapi.json` need none.",
        'Every answer carries `x-request-id`. Errors are `{"error": {"message", "type", "code", "param"}}`.',
        "",
        "| status | meaning |",
        "| --- | --- |",
    ]
    responses = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    lines += [
        f"| {status} | {response['description']} |"
        for status, response in sorted(responses.items())
        if status not in ("200", "422")
    ]
    lines += ["", "## Headers of a request", "", "| header | meaning |", "| --- | --- |"]
    lines += [
        "| `cache-control` | `no-store`: leave the cache alone; `no-cache`: ask anew, and store |",
        "| `x-groupqwen-device` | `server`, `macbook` or `mobile`: how large a variant may answer; unset: the "
        "machine of the group that it comes from, else `server` |",
        "| `x-groupqwen-session` | a conversation's name, for the ledger |",
        "| `traceparent` | W3C's: whose child this request's spans are, where the owner has it traced |",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += ["", f"## {method.upper()} {path}", "", operation.get("description", "").strip()]
            body = _schema_name(operation.get("requestBody"))
            if body:
                lines += ["", *_fields(document, body)]
            answer = _schema_name(operation["responses"].get("200"))
            if answer:
                lines += ["", f"Answers with `{answer}`:", "", *_fields(document, answer)]
            lines += _also(operation["responses"], responses)
    lines += [
        "",
        "## WebSocket /v1/chat/ws",
        "",
        "Each message is a chat request; the answer comes as `chat.completion.chunk` messages and ends with",
        '`{"type": "done"}`. `{"type": "cancel"}` stops the answer that is running. Requests that',
        "come meanwhile wait for their turn (8 at most; one more is answered by an error). The key comes in the",
        'Authorization header or, where a browser cannot set one, in a first message `{"api_key": "gq-…"}`.',
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _also(own: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """The statuses of one operation that not all have."""
    more = [(status, said["description"]) for status, said in sorted(own.items()) if status not in usual]
    told = " ".join(f"{status}: {meaning}" for status, meaning in more)
    return ["", f"Also answers with {told}"] if more else []


def _schema_name(holder: dict[str, Any] | None) -> str | None:
    content = (holder or {}).get("content", {}).get("application/json", {})
    reference = content.get("schema", {}).get("$ref", "")
    return reference.rsplit("/", 1)[-1] or None


def _fields(document: dict[str, Any], name: str) -> list[str]:
    schema = document["components"]["schemas"][name]
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field, about in schema.get("properties", {}).items():
        needed = field in schema.get("required", [])
        default = "required" if needed else f"`{json.dumps(about.get('default'))}`"
        meaning = about.get("description", "").replace("|", "\\|")
        lines.append(f"| `{field}` | {_type(about)} | {default} | {meaning} |")
    return lines


def _type(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(_type(option) for option in about["anyOf"]))
    if "$ref" in about:
        return str(about["$ref"]).rsplit("/", 1)[-1]
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}"
    return str(about.get("type", "any"))
