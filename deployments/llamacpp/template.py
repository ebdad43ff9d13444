"""From messages to prompt tokens, by the chat template that the GGUF file carries.

A control token that someone typed reaches the model as the characters it is made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from deployments.contract import invalid
from deployments.control_tokens import ControlTokens
from deployments.llamacpp.weights import Weights

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SEAM = "\ue000"  # private use: put inside a typed control token, cut at before tokenizing

_TOOLS_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ChatTemplate:
    """One model's template and the tokenization of what it renders."""

    def __init__(self, weights: Weights) -> None:
        source = weights.chat_template or CHATML
        self._weights = weights
        self._knows_tools = "tools" in source
        self._formatter = Jinja2ChatFormatter(
            template=source,
            eos_token=weights.piece(weights.eos, special=True).decode("utf-8", "replace"),
            bos_token=weights.piece(weights.bos, special=True).decode("utf-8", "replace")
            if weights.bos >= 0
            else "",
        )
        control = (
            weights.piece(token, special=True).decode("utf-8", "replace")
            for token in range(weights.n_vocab)
            if llama_cpp.llama_vocab_is_control(weights.vocab, token)
        )
        self._control = ControlTokens(control, _SEAM)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        kwargs: Mapping[str, Any],
        begun: str = "",
    ) -> str:
        """The prompt as text, with the answer as far as it has `begun`. Raises a 400 `ChatError` where the
        template refuses the conversation."""
        plain = [_plain(message, index) for index, message in enumerate(messages)]
        if tools and not self._knows_tools:
            plain, tools = _with_tools_prompt(plain, tools), None
        plain = [self._control.disarm(message) for message in plain]
        try:
            reserved = {"messages", "tools", "functions", "function_call", "tool_choice"}
            extra = {key: value for key, value in kwargs.items() if key not in reserved}
            offered = self._control.disarm(list(tools)) if tools else None
            prompt = str(self._formatter(messages=plain, tools=offered, **extra).prompt)
            return prompt + str(self._control.disarm(begun))
        except Exception as error:  # templates raise ValueError, TemplateError, TypeError, …
            raise invalid(
                f"The model's chat template refuses this conversation: {error}", param="messages"
            ) from error

    def tokenize(self, rendered: str) -> list[int]:
        """Token ids of a rendered prompt; stretches that the seam parts cannot join to a control token."""
        return [
            token
            for stretch in rendered.split(_SEAM)
            for token in self._weights.tokenize(stretch, add_special=False, parse_special=True)
        ]


def _plain(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A message as templates expect it: text content, known roles, arguments as objects."""
    plain = dict(message)
    plain["role"] = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    plain["content"] = _text(message.get("content"), index)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        plain["tool_calls"] = [_with_object_arguments(call) for call in calls if isinstance(call, Mapping)]
    else:
        plain.pop("tool_calls", None)
    return plain


def _text(content: Any, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise invalid(
                f"messages[{index}] holds a part of type {kind!r}, and this variant reads text only. "
                "Name a vision variant, or send the text of it.",
                param="messages",
            )
    return "\n".join(texts)


def _with_object_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    given = call.get("function")
    function = dict(given) if isinstance(given, Mapping) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments or "{}")
        except ValueError:
            function["arguments"] = {"text": arguments}
    return {**call, "function": function}


def _with_tools_prompt(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Declare tools in the system message, for templates that have no place for them."""
    prompt = _TOOLS_PROMPT.format(signatures="\n".join(json.dumps(tool) for tool in tools))
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{prompt}"}, *messages[1:]]
    return [{"role": "system", "content": prompt}, *messages]
