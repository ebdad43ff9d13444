"""The chat contract on the llama.cpp engine: messages in, OpenAI chunks out.

Template → prompt tokens → engine → text → reasoning and tool parsers → chunks. Knows nothing of Ray
or HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_token_logprob import TopLogprob

from deployments.chunks import ChunkBuilder, FinishReason, token_usage, tool_call_delta
from deployments.contract import (
    Adapter,
    ChatRequest,
    ContinuedRequest,
    RawPromptRequest,
    context_too_long,
    engine_gone,
    invalid,
    queue_full,
)
from deployments.llamacpp.adapters import Adapters
from deployments.llamacpp.engine import Engine, EngineOptions
from deployments.llamacpp.generation import (
    EngineFailed,
    EngineFull,
    Finished,
    Generation,
    Piece,
    ThinkingBudget,
)
from deployments.llamacpp.grammar import response_grammar, tool_grammar
from deployments.llamacpp.reasoning import CLOSE, OPEN, ReasoningParser
from deployments.llamacpp.sampling import SamplingOptions, TokenLogprob, enforceable
from deployments.llamacpp.template import ChatTemplate
from deployments.llamacpp.tools import Text, ToolParser
from deployments.llamacpp.weights import Weights

LONG_PROMPT_CHARS = 20_000
"""Longer prompts are tokenized in a thread, so that they do not hold up the event loop."""

_THINKING_CUT = "\n\nTime is up: I answer with what I have worked out so far.\n</think>\n\n"


@dataclass(frozen=True)
class ChatOptions:
    """What a variant adds to the engine: its name, default sampling and limits (tokens)."""

    name: str
    engine: EngineOptions = field(default_factory=EngineOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_output: int = 4096
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    thinking_budget: int | None = None
    gpu_layers: int = 0
    adapters: Path = Path("adapters")
    """The folder of all adapters."""
    max_adapters: int = 4


class LlamaCppChat:
    """One variant on one GGUF file."""

    def __init__(self, path: Path, options: ChatOptions) -> None:
        self.options = options
        self.weights = Weights(path, gpu_layers=options.gpu_layers)
        try:
            self.template = ChatTemplate(self.weights)
            self.engine = Engine(self.weights, options.engine)
        except BaseException:
            self.weights.close()  # A context that does not fit must not leave the weights behind.
            raise
        self.adapters = Adapters(self.engine, options.adapters, options.name, options.max_adapters)

    async def chat(
        self,
        request: ChatRequest,
        request_id: str,
        *,
        tenant: str = "",
        adapter: Adapter | None = None,
        begin_within: float | None = None,
        taken_up: Callable[[], None] | None = None,
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Stream the answer to `tenant`, in lists of what is there at once; fairness is between tenants.
        `adapter`: what it is asked with, which is loaded where it is not. `begin_within`: seconds from now until
        the first token. `taken_up` is called by another thread for each choice that need not wait any more. Raises
        `ChatError` before the first chunk where the request cannot be run, and later where its turn does not come
        in time."""
        builder = ChunkBuilder(request_id, self.options.name if adapter is None else adapter.model)
        prompt, thinking_open = await self._prompt(request)
        generation = replace(
            self._generation(request, prompt, tenant),
            adapter=None if adapter is None else adapter.key,
            request_id=request_id,
            taken_up=taken_up,
            begin_by=None if begin_within is None else time.monotonic() + begin_within,
        )
        answers = [_Answer(self, request, builder, index, thinking_open) for index in range(request.n)]
        async with AsyncExitStack() as opened:
            if adapter is not None:
                await opened.enter_async_context(self.adapters.using(adapter))
            try:
                for answer in answers:
                    answer.submit(_for_choice(generation, answer.index))
                    opened.push_async_callback(answer.stream.aclose)
                # The roles go out as soon as the request is accepted, long before the first token:
                # from then on the client knows that it will not be refused.
                yield [builder.delta(answer.index, role="assistant", content="") for answer in answers]
                steps = await opened.enter_async_context(aclosing(_interleave(answers)))
                async for chunks in steps:
                    yield chunks
            except EngineFull as full:
                raise queue_full(full.retry_after) from full
            except EngineFailed as failed:
                raise engine_gone(self.options.name) from failed
        done = [answer.finished for answer in answers if answer.finished]
        completion = sum(finished.completion_tokens for finished in done)
        cached = min((finished.prompt_reused for finished in done), default=0)
        yield [builder.usage(token_usage(len(prompt), completion, cached=cached))]

    async def _prompt(self, request: ChatRequest) -> tuple[list[int], bool]:
        """Prompt tokens, and whether the prompt ends inside an opened chain of thought."""
        if isinstance(request, RawPromptRequest):
            if isinstance(request.prompt, list):
                if any(not 0 <= token < self.weights.n_vocab for token in request.prompt):
                    raise invalid("prompt holds a token id outside the vocabulary", param="prompt")
                prompt, opened = list(request.prompt), False
            else:
                prompt = self.weights.tokenize(request.prompt, add_special=True, parse_special=False)
                opened = False
        else:
            tools = None if request.tool_choice == "none" else request.tools
            kwargs = {**self.options.template_kwargs, **request.chat_template_kwargs}
            begun = request.begun if isinstance(request, ContinuedRequest) else ""
            rendered = self.template.render(request.messages, tools, kwargs, begun)
            opened = rendered.rstrip().endswith(OPEN)
            if len(rendered) > LONG_PROMPT_CHARS:
                prompt = await asyncio.to_thread(self.template.tokenize, rendered)
            else:
                prompt = self.template.tokenize(rendered)
        if not prompt:
            prompt = [self.weights.bos if self.weights.bos >= 0 else self.weights.eos]
        if len(prompt) >= self.options.engine.context:
            raise context_too_long(len(prompt), self.options.engine.context)
        return prompt, opened

    def _generation(self, request: ChatRequest, prompt: list[int], tenant: str) -> Generation:
        room = min(self.options.engine.context - len(prompt), self.options.max_output)
        limit = room if request.token_limit is None else min(request.token_limit, room)
        bias = tuple((int(token), value) for token, value in (request.logit_bias or {}).items())
        if any(token >= self.weights.n_vocab for token, _ in bias):
            raise invalid("logit_bias holds a token id outside the vocabulary", param="logit_bias")
        defaults = self.options.sampling
        given = {
            name: value
            for name in (
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
                "seed",
            )
            if (value := getattr(request, name)) is not None
        }
        grammar = _grammar(request)
        if grammar is not None and not enforceable(self.weights, grammar):
            param = "response_format" if request.response_format else "tools"
            raise invalid("This JSON schema cannot be enforced: no text would fit it.", param=param)
        budget = self.options.thinking_budget
        return Generation(
            prompt=prompt,
            max_tokens=limit,
            sampling=replace(defaults, **given, logit_bias=bias, grammar=grammar),
            stop=tuple(request.stop or ()),
            logprobs=request.logprobs,
            top_logprobs=request.top_logprobs or 0,
            tenant=tenant,
            thinking=None if budget is None else self._thinking_budget(budget),
        )

    def _thinking_budget(self, tokens: int) -> ThinkingBudget:
        closing = self.weights.tokenize(_THINKING_CUT, add_special=False, parse_special=True)
        end = self.weights.tokenize(CLOSE, add_special=False, parse_special=True)
        return ThinkingBudget(tokens, end[0] if len(end) == 1 else -1, tuple(closing))

    def close(self) -> None:
        """Stop the engine and free the model."""
        self.engine.close()
        self.weights.close()


def _grammar(request: ChatRequest) -> str | None:
    choice = request.tool_choice
    if request.tools and choice == "required":
        return tool_grammar(request.tools, None)
    if request.tools and isinstance(choice, dict):
        return tool_grammar(request.tools, choice["function"]["name"])
    return response_grammar(request.response_format)


def _for_choice(generation: Generation, index: int) -> Generation:
    """Choice 0 draws with the seed as given, each further one with the next."""
    seed = generation.sampling.seed
    if seed is None or index == 0:
        return generation
    return replace(generation, sampling=replace(generation.sampling, seed=seed + index))


class _Answer:
    """One choice on its way: engine events in, chunks out."""

    def __init__(
        self, chat: LlamaCppChat, request: ChatRequest, builder: ChunkBuilder, index: int, thinking: bool
    ) -> None:
        self.index = index
        self.finished: Finished | None = None
        self._chat = chat
        self._builder = builder
        raw = isinstance(request, RawPromptRequest)
        self._reasoning = None if raw else ReasoningParser(opened=thinking)
        declared = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in request.tools or []
        }
        self._tools = ToolParser(declared) if declared and request.tool_choice != "none" else None
        self._calls = 0

    def submit(self, generation: Generation) -> None:
        """Queue it. Raises `EngineFull`, `EngineFailed`."""
        self.stream = self._chat.engine.submit(generation)

    async def run(self) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        async for news in self.stream:
            chunks = self._chunks(news)
            if chunks:
                yield chunks

    def _chunks(self, news: list[Piece | Finished]) -> list[ChatCompletionChunk]:
        pieces = [event for event in news if isinstance(event, Piece)]
        end = next((event for event in news if isinstance(event, Finished)), None)
        logprobs = [self._logprob(piece.logprob) for piece in pieces if piece.logprob]
        chunks = self._deltas("".join(piece.text for piece in pieces), final=end is not None)
        if logprobs:
            # They belong to tokens, not to text: they go with the first delta, or alone.
            if not chunks:
                chunks = [self._builder.delta(self.index, content="")]
            chunks[0] = chunks[0].model_copy(deep=True)
            chunks[0].choices[0].logprobs = self._builder.delta(self.index, logprobs=logprobs).choices[0].logprobs
        if end is not None:
            self.finished = end
            reason: FinishReason = "tool_calls" if self._calls and end.reason == "stop" else end.reason
            chunks.append(self._builder.delta(self.index, finish_reason=reason))
        return chunks

    def _deltas(self, text: str, *, final: bool) -> list[ChatCompletionChunk]:
        chunks: list[ChatCompletionChunk] = []
        content = text
        if self._reasoning is not None:
            parts = self._reasoning.push(text) + (self._reasoning.finish() if final else [])
            content = "".join(part.text for part in parts if part.kind == "content")
            reasoning = "".join(part.text for part in parts if part.kind == "reasoning")
            if reasoning:
                chunks.append(self._builder.delta(self.index, reasoning=reasoning))
        if self._tools is None:
            if content:
                chunks.append(self._builder.delta(self.index, content=content))
            return chunks
        for found in self._tools.push(content) + (self._tools.finish() if final else []):
            if isinstance(found, Text):
                chunks.append(self._builder.delta(self.index, content=found.text))
            else:
                call = tool_call_delta(self._calls, f"call_{secrets.token_hex(12)}", found.name, found.arguments)
                self._calls += 1
                chunks.append(self._builder.delta(self.index, tool_call=call))
        return chunks

    def _logprob(self, logprob: TokenLogprob) -> ChatCompletionTokenLogprob:
        data = self._chat.weights.piece(logprob.token)
        return ChatCompletionTokenLogprob(
            token=data.decode("utf-8", "replace"),
            bytes=list(data),
            logprob=logprob.logprob,
            top_logprobs=[
                TopLogprob(token=piece.decode("utf-8", "replace"), bytes=list(piece), logprob=value)
                for token, value in logprob.top
                for piece in [self._chat.weights.piece(token)]
            ],
        )


async def _interleave(answers: list[_Answer]) -> AsyncGenerator[list[ChatCompletionChunk], None]:
    """Chunks of several choices as they come; fails when one fails."""
    if len(answers) == 1:
        async with aclosing(answers[0].run()) as steps:
            async for chunks in steps:
                yield chunks
        return
    queue: asyncio.Queue[list[ChatCompletionChunk] | BaseException | None] = asyncio.Queue()

    async def pump(answer: _Answer) -> None:
        try:
            async for chunks in answer.run():
                queue.put_nowait(chunks)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(answer)) for answer in answers]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
