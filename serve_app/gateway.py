"""The ingress: OpenAI's API over HTTP, server-sent events and WebSocket.

Checks who asks and what exactly is asked, hands it to the Router, and turns what comes back into what
a client reads. Decides nothing about models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
from fastapi import FastAPI, Request, Security, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from configs.adapters import base_of, may_ask
from configs.catalog import Catalog
from configs.home import home
from configs.placement import application_of
from configs.profile import Profile
from deployments.adapters.promotion import refused
from deployments.classifier.rules import CHARS_PER_TOKEN
from deployments.contract import (
    ChatError,
    ChatRequest,
    CompletionRequest,
    RequestContext,
    engine_gone,
    invalid,
    queue_full,
)
from deployments.ledger.opinions import Feedback
from deployments.residency import RESIDENCY
from deployments.serving import deployment, variant_of
from deployments.timing import together
from deployments.tracing.attributes import from_gateway
from serve_app import (
    adapter_routes,
    answers,
    budget_routes,
    cache_routes,
    drain_routes,
    embeddings,
    file_routes,
    finetune_routes,
    key_routes,
    ledger_routes,
    openai_finetune_routes,
)
from serve_app.admission import Admission, admit_by
from serve_app.answers import AnswerResponse, AnswerStream, Item, Whole
from serve_app.border import Border, KeyScheme, Rules, enforce
from serve_app.completions import text_body, text_chunk
from serve_app.content import Contents
from serve_app.context import disconnected, request_context
from serve_app.devices import Devices
from serve_app.errors import CONFLICT, ERRORS, chat_error, shape_errors
from serve_app.health import Conditions
from serve_app.keys import ApiKey, KeyRing
from serve_app.metrics import scrape
from serve_app.parts import GONE, serve_from
from serve_app.schemas import (
    ChatAnswer,
    EmbeddingAnswer,
    EmbeddingRequest,
    Health,
    Model,
    ModelList,
    Pin,
    Received,
    Residence,
    Rollout,
    Route,
    TextAnswer,
    also_streamed,
)
from serve_app.tracing import trace_by
from serve_app.websocket import serve_socket

# Serve pickles the class below while this module is still being imported: what its methods use must be
# defined above it or in another module.
api = FastAPI(
    title="GroupQwen",
    version="0.1.0",
    description="One OpenAI-compatible endpoint over a group of Qwen models.",
    responses=ERRORS,
    dependencies=[Security(KeyScheme(scheme_name="HTTPBearer", description="An API key, gq-…"))],
)

api.add_middleware(Border)
api.include_router(key_routes.routes)
api.include_router(ledger_routes.routes)
api.include_router(budget_routes.routes)
api.include_router(drain_routes.routes)
api.include_router(cache_routes.routes)
api.include_router(adapter_routes.routes)
api.include_router(finetune_routes.routes)
api.include_router(finetune_routes.streams)
api.include_router(openai_finetune_routes.routes)
api.include_router(file_routes.routes)
shape_errors(api)


@deployment
@serve.ingress(api)
class Gateway:
    """HTTP in, HTTP out."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        router: DeploymentHandle,
        cache: DeploymentHandle,
        ledger: DeploymentHandle,
        residency: DeploymentHandle | None,
        redis_url: str,
        finetuning: DeploymentHandle,
    ) -> None:
        self._profile, self._catalog = profile, catalog
        self._limits = profile.limits
        self._contents = Contents(profile.limits)
        self._router, self._cache, self._ledger = router, cache, ledger
        self._residency = residency
        # A handle to a method is made once: making one costs as much as using it.
        self._chat = router.options(stream=True).chat
        self._http = httpx.AsyncClient(timeout=5)
        self.keys = KeyRing(home().keys)
        self._admission = Admission(profile, catalog, self.keys, redis_url, ledger)
        self._watching = asyncio.get_running_loop().create_task(self._admission.watch())
        limits = profile.limits
        enforce(
            Rules(
                self.keys,
                limits.body_bytes,
                Devices(profile.nodes),
                limits.body_seconds,
                limits.send_seconds,
                self._admission.append,
                limits.json_depth,
                profile.finetuning.file_bytes,
                profile.finetuning.upload_seconds,
            )
        )
        file_routes.allow(profile.finetuning.uploads)
        admit_by(self._admission)
        parts = {"router": router, "cache": cache, "ledger": ledger, "finetuning": finetuning}
        self._conditions = Conditions(**parts, residency=residency)
        serve_from(**parts)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Whether requests are traced, from `user_config`: without a restart."""
        trace_by(config.get("trace"), self._profile.ledger.query_text)

    # -- answers -----------------------------------------------------------------------------------

    @api.post("/v1/chat/completions", response_model=None, responses=also_streamed(ChatAnswer))
    async def chat_completions(self, body: ChatRequest, request: Request) -> Response:
        """Answer a conversation. `model` is `auto`, a variant, an adapter (`ft:<base>:<name>`), or an alias; see
        `/v1/models`."""
        self.check(body)
        context = request_context(request)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return await self._stream(body, context, include_usage=include_usage)
        whole = await self._whole(body, context, request)
        return JSONResponse(answers.body(whole.chunks, whole.routed, context), headers=whole.headers)

    @api.post("/v1/completions", response_model=None, responses=also_streamed(TextAnswer))
    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continue a raw prompt (OpenAI's legacy API): no chat template, no cache."""
        context = request_context(request)
        prompts = body.prompts
        if not prompts or len(prompts) > 16:
            raise invalid("prompt must hold 1 to 16 prompts", param="prompt")
        try:
            chats = [body.as_chat(prompt) for prompt in prompts]
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"])
            raise invalid(f"{field}: {problem['msg']}", param=field) from error
        if body.stream:
            if len(chats) > 1:
                raise invalid("stream takes one prompt at a time", param="prompt")
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return await self._stream(chats[0], context, include_usage=include_usage, text=True)
        # Each prompt is a request of its own to the Router, and so a row of its own in the ledger.
        contexts = [context.numbered(n) for n in range(len(chats))]
        at_once = self.keys.limits(context.key_id).concurrent or len(chats)
        asked = [(self._whole, chat, each, request) for chat, each in zip(chats, contexts, strict=True)]
        folded: list[Whole] = await together(asked, at_once)
        return JSONResponse(
            {
                **text_body(body, [whole.chunks for whole in folded]),
                "metadata": answers.metadata(folded[0].routed, context),
            },
            headers=folded[0].headers,
        )

    @api.websocket("/v1/chat/ws")
    async def chat_socket(self, socket: WebSocket) -> None:
        """Chat requests in, chunks out, as JSON messages; `{"type": "done"}` ends each answer.

        The key comes in the Authorization header, or, where a browser cannot set one, in a first
        message `{"api_key": "gq-…"}`. `{"type": "cancel"}` stops the answer that is running.
        """
        await serve_socket(
            socket,
            self.keys,
            self._limits,
            self.check,
            lambda chat, context: self.open(chat, context, include_usage=True),
        )

    async def _stream(
        self, chat: ChatRequest, context: RequestContext, *, include_usage: bool, text: bool = False
    ) -> Response:
        stream = self.open(chat, context, include_usage=include_usage, text=text)
        try:
            await stream.start()
        except StopAsyncIteration:
            raise engine_gone("auto") from None
        except BaseException:
            await stream.close()
            raise
        headers = {
            **answers.headers(stream.routed, stream.standing),
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        return AnswerResponse(stream, headers)

    def open(
        self, chat: ChatRequest, context: RequestContext, *, include_usage: bool, text: bool = False
    ) -> AnswerStream:
        """One answer as a stream of frames."""
        return AnswerStream(
            self._items(chat, context),
            context,
            include_usage=include_usage,
            keep_alive=self._limits.keepalive_seconds,
            deadline=time.monotonic() + self._limits.request_seconds,
            convert=(lambda chunk: text_chunk(chunk, 0)) if text else answers.dump,
        )

    async def _whole(self, chat: ChatRequest, context: RequestContext, request: Request) -> Whole:
        """Collect an answer; given up when the client leaves or the time is over."""
        collecting = asyncio.ensure_future(self._collect(chat, context))
        leaving = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait(
                {collecting, leaving},
                timeout=self._limits.request_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if collecting.done():
                return collecting.result()
            raise answers.timed_out() if not leaving.done() else invalid("The client went away.")
        finally:
            for task in (collecting, leaving):
                task.cancel()
            await asyncio.gather(collecting, leaving, return_exceptions=True)

    async def _collect(self, chat: ChatRequest, context: RequestContext) -> Whole:
        whole = Whole()
        async with aclosing(self._items(chat, context)) as items:
            async for item in items:
                whole.take(item)
        if not whole.chunks:
            raise engine_gone("auto")
        return whole

    def _items(self, chat: ChatRequest, context: RequestContext) -> AsyncGenerator[Item, None]:
        """What answers a request, in a span where it is traced."""
        return self._routed(chat, context) if context.trace is None else from_gateway(self._routed, chat, context)

    async def _routed(self, chat: ChatRequest, context: RequestContext) -> AsyncGenerator[Item, None]:
        """How the key stands, where it is limited; then the Router's items, its failures as `ChatError`."""
        async with self._admission.admit(chat, context) as admitted:
            if admitted.standing is not None:
                yield admitted.standing
            try:
                chat = await self._contents.checked(chat)
            except ChatError as error:
                self._admission.refused(chat, admitted, error)
                raise
            items = self._chat.remote(chat, admitted.context)
            running = True
            try:
                async for batch in items:
                    for item in batch:
                        admitted.see(item)
                        yield item
                running = False
            except RayTaskError as error:
                running = False
                raise chat_error(error) from error
            except (BackPressureError, *GONE) as error:
                # The row of the Ledger that the Router owed is written here.
                running = False
                gone = queue_full(2.0) if isinstance(error, BackPressureError) else engine_gone("router")
                self._admission.refused(chat, admitted, gone)
                raise gone from error
            finally:
                if running:
                    items.cancel()

    def check(self, body: ChatRequest) -> None:
        """Raise a 400 for a conversation of too many messages."""
        if len(body.messages) > self._limits.messages:
            raise invalid(
                f"messages holds {len(body.messages)} messages; the limit is {self._limits.messages}",
                param="messages",
            )

    # -- embeddings --------------------------------------------------------------------------------

    @api.post("/v1/embeddings")
    async def embeddings(self, body: EmbeddingRequest, request: Request) -> EmbeddingAnswer:
        """Sentence embeddings by the profile's embedder."""
        name = self._profile.embedder
        texts = embeddings.texts_of(body, name, self._catalog.embedders[name].dimensions, self._limits)
        key, request_id = request.state.key, request.state.request_id
        async with self._admission.count(key.id, request_id, sum(map(len, texts)) // CHARS_PER_TOKEN):
            vectors, tokens = await self._ask(self._cache.embed.remote(texts), "cache")
        return embeddings.answer(body, name, vectors, tokens)

    # -- what there is and how it is -----------------------------------------------------------------

    @api.get("/v1/models", response_model_exclude_unset=True)
    async def models(self, request: Request) -> ModelList:
        """`auto`, every variant of the profile with live status, and the adapters that are promoted and that the
        key may ask."""
        may = request.state.key.variants
        models = await self._models()
        models.data = [model for model in models.data if base_of(model.id) == model.id or may_ask(may, model.id)]
        return models

    async def _models(self) -> ModelList:
        variants = await self._ask(self._router.models.remote(), "router")
        auto = {"id": "auto", "created": variants[0]["created"], "owned_by": "groupqwen", "engine": "router"}
        return ModelList.model_validate({"object": "list", "data": [{"object": "model", **auto}, *variants]})

    @api.get("/v1/models/{model_id:path}", response_model_exclude_unset=True)
    async def model(self, model_id: str, request: Request) -> Model:
        """One of them."""
        return self._found(model_id, await self.models(request))

    @staticmethod
    def _found(model_id: str, models: ModelList) -> Model:
        found = next((model for model in models.data if model.id == model_id), None)
        if found is None:
            raise ChatError(
                f"The model {model_id!r} does not exist here.",
                status=404,
                kind="not_found_error",
                code="model_not_found",
                param="model",
            )
        return found

    @api.post("/v1/models/{model_id}/load", responses=CONFLICT)
    async def load(self, model_id: str) -> Residence:
        """Bring a variant into memory, and answer when it is there."""
        keeper = await self._keeper(model_id)
        return Residence.model_validate(
            await self._ask(keeper.load.remote(model_id, self._limits.wake_seconds), "residency")
        )

    @api.post("/v1/models/{model_id}/unload", responses=CONFLICT)
    async def unload(self, model_id: str) -> Residence:
        """Let a variant leave memory as soon as it is idle. The next request for it brings it back."""
        keeper = await self._keeper(model_id)
        return Residence.model_validate(await self._ask(keeper.unload.remote(model_id), "residency"))

    @api.post("/v1/models/{model_id}/pin", responses=CONFLICT)
    async def pin(self, model_id: str, body: Pin) -> Residence:
        """Keep a variant once it is in memory, or let it go again."""
        keeper = await self._keeper(model_id)
        return Residence.model_validate(await self._ask(keeper.pin.remote(model_id, body.pinned), "residency"))

    async def _keeper(self, model_id: str) -> DeploymentHandle:
        self._found(model_id, await self._models())
        if (base := base_of(model_id)) != model_id:
            raise refused(f"{model_id!r} is in memory with its base, {base!r}, when it is asked.", "adapter")
        served = self._profile.variants.get(model_id)
        if served is not None and served.keep == "auto" and served.node is not None:
            return variant_of(application_of(served.node), RESIDENCY)
        if self._residency is None or served is None or served.keep == "always":
            raise ChatError(
                f"{model_id!r} is always in memory: the profile {self._profile.name!r} does not swap it.",
                status=409,
                kind="invalid_request_error",
                code="always_resident",
            )
        return self._residency

    @api.post("/v1/route")
    async def route(self, body: ChatRequest, request: Request) -> Route:
        """The decision for a conversation, without an answer: which variant, and why the others were passed
        over. The cache is not asked."""
        self.check(body)
        context = request_context(request)
        async with self._admission.count(context.key_id, context.request_id, 0):
            body = await self._contents.checked(body)
            decision = await self._ask(self._router.route.remote(body, context), "router")
        return Route.model_validate(decision.as_dict())

    @api.post("/v1/feedback")
    async def feedback(self, body: Feedback, request: Request) -> Received:
        """What you think of an answer: it is what routing learns from. Counts only for your own key's requests."""
        if body.verdict is None:
            raise invalid("Say `rating` (up, down, regenerate), or a `correction`.", param="rating")
        key: ApiKey = request.state.key
        self._admission.append(body.as_row(key.id))
        counted = self._router.feedback.remote(body.request_id, key.id, body.verdict == "up", body.correction)
        return Received(known=await self._ask(counted, "router"))

    @api.get("/v1/rollout")
    async def rollout(self) -> Rollout | None:
        """How the canary of a rollout does; null while there is none."""
        canary = await self._ask(self._router.canary.remote(), "router")
        return None if canary is None else Rollout.model_validate(canary)

    @api.get("/v1/health", responses={503: {"model": Health}})
    async def health(self, request: Request, response: Response) -> Health:
        """Live (this process answers), ready (a question would be answered), and part by part."""
        found = await self._conditions.look(draining=self._admission.draining)
        response.status_code = 200 if found.ready else 503
        key: ApiKey | None = request.state.key
        return found if key is not None and "admin" in key.scopes else found.model_copy(update={"parts": None})

    @api.get("/v1/metrics", response_class=PlainTextResponse)
    async def metrics(self) -> Response:
        """This node's metrics in Prometheus' text format: ours, and Serve's."""
        return PlainTextResponse(await scrape(self._http), media_type="text/plain; version=0.0.4")

    @api.get("/", include_in_schema=False)
    async def root(self) -> Response:
        return RedirectResponse("/docs")

    async def _ask(self, response: Any, part: str) -> Any:
        try:
            return await response
        except RayTaskError as error:
            raise chat_error(error) from error
        except (*GONE, TimeoutError) as error:
            raise engine_gone(part) from error
