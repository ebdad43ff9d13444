"""How a question is read before anybody answers: the cache's two lookups, the embedding, the classification.
Whoever is away is done without."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from configs.home import home
from configs.profile import Profile
from configs.routing import Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.exact import ExactCache
from deployments.classifier.learned import embedder_of
from deployments.classifier.rules import Classification, classify, last_user_text
from deployments.contract import ChatRequest, RequestContext
from deployments.last_error import LastError
from deployments.router.decision import Given
from deployments.router.wishes import resolve_model
from deployments.timing import within

logger = logging.getLogger("ray.serve")

PATIENCE_SECONDS = 1.0
"""For anything that a question may do without: Serve lets calls wait for a deployment that is being restarted."""

NOTHING_ASKED = ChatRequest.model_validate({"messages": [{"role": "user", "content": ""}]})

GONE = (RayActorError, RayTaskError, RayServeException)
"""What a call to a deployment that is away raises."""


class Reader:
    """The Router's side of cache and Classifier."""

    def __init__(
        self, profile: Profile, exact: ExactCache, cache: DeploymentHandle, classifier: DeploymentHandle
    ) -> None:
        self._profile = profile
        self._routing: Routing
        self._exact = exact
        # Handles to methods are made once: making one costs as much as using it.
        self._find_similar, self._store = cache.find_similar, cache.store
        self._refuse, self._drop, self._doubted = cache.refuse, cache.drop, cache.doubted
        self._embed, self._embed_query = cache.embed, cache.embed_query
        self._classify = classifier.classify
        self._learned_from_embeddings = False
        self._last_error = LastError()

    def reconfigure(self, routing: Routing) -> None:
        """New rules, and perhaps another artifact."""
        self._routing = routing
        self._learned_from_embeddings = embedder_of(home().router) == self._profile.embedder

    async def look_up(self, request: ChatRequest, context: RequestContext) -> Lookup:
        """The exact half of a lookup; and the similar one, where the decision hangs on the embedding that it
        makes."""
        lookup = await self._exact.look_up(request, context, self._routing.cache)
        if lookup.answer is None and self._reads_embedding(request):
            asked = lookup.similar_may_serve
            lookup = await self.similar(request, lookup)
            # (A cache that has just said nothing is not asked once more.)
            if lookup.answer is None and not asked:
                lookup = replace(lookup, embedding=await self._made(request))
        return lookup

    async def similar(self, request: ChatRequest, lookup: Lookup) -> Lookup:
        """The second half, for requests that a similar question's answer may serve. A cache that is gone is a
        miss."""
        if not lookup.similar_may_serve:
            return lookup
        lookup = replace(lookup, kind=classify(request.messages, self._routing).task)
        try:
            found: Lookup = await within(self._find_similar.remote(lookup), PATIENCE_SECONDS)
            return found
        except (*GONE, TimeoutError):
            logger.warning("the cache did not answer; the request goes on without it")
            return replace(lookup, similar_may_serve=False)

    async def classifier_health(self) -> dict[str, Any]:
        """Whether the Classifier answers; while it does not, the rules alone decide."""
        try:
            await within(self._classify.remote(NOTHING_ASKED), PATIENCE_SECONDS)
        except (*GONE, TimeoutError) as error:
            return {"ok": False, "error": type(error).__name__, "last_error": self._last_error.report()}
        return {"ok": True, "error": None, "last_error": self._last_error.report()}

    async def served(self, lookup: Lookup) -> None:
        """What the cache had was of use."""
        await self._exact.served(lookup)

    async def gave(self, request_id: str, given: Given) -> None:
        """Remember which entry a request was given, or has led to."""
        await self._exact.gave(request_id, given)

    async def take_given(self, request_id: str, key_id: str) -> Given | None:
        """What was given for a request of this key's, once; None while Redis is away."""
        return await self._exact.take_given(request_id, key_id)

    async def keep(self, answer: CachedAnswer, lookup: Lookup) -> None:
        """Give the cache what a miss has led to."""
        try:
            await self._store.remote(answer, lookup)
        except GONE:
            logger.warning("the cache did not take an answer")

    async def disown(self, given: Given) -> None:
        """Someone found bad what the cache gave, or what was kept: it does not serve that question again."""
        try:
            if given.embedding is not None:
                await self._refuse.remote(given.entry, given.embedding)
            else:
                await self._drop.remote(given.entry)
        except GONE:
            logger.warning("the cache did not hear that an answer was bad")

    async def doubt(self, lookup: Lookup) -> None:
        """The answer that a miss has led to is not one to rely on."""
        try:
            await self._doubted.remote(lookup)
        except GONE:
            logger.warning("the cache did not hear that an answer was in doubt")

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embeddings of any texts. Raises what `GONE` names."""
        vectors, _ = await self._embed.remote(texts)
        return list(vectors)

    async def embedding(self, request: ChatRequest) -> bytes | None:
        """For a decision that no lookup comes before; None where nobody would read it."""
        return await self._made(request) if self._reads_embedding(request) else None

    async def classification(self, request: ChatRequest, embedding: bytes | None = None) -> Classification:
        """The Classifier's word where the decision hangs on it; our own by the same rules where a variant was
        named, or where the Classifier is away. `embedding`: the question's, as a lookup has made it."""
        if not self._names_one(request):
            try:
                asked = self._classify.remote(request, embedding)
                found: Classification = await within(asked, PATIENCE_SECONDS)
                return found
            except (*GONE, TimeoutError) as error:
                self._last_error.note(error)
                logger.warning("the Classifier did not answer; the rules are applied here")
        return classify(request.messages, self._routing)

    def _reads_embedding(self, request: ChatRequest) -> bool:
        """Whether the decision hangs on the question's embedding: outcomes were learned by some, and nobody was
        named."""
        return self._learned_from_embeddings and not self._names_one(request)

    def _names_one(self, request: ChatRequest) -> bool:
        return resolve_model(request.model, self._profile, self._routing).kind == "variant"

    async def _made(self, request: ChatRequest) -> bytes | None:
        """For the decision alone; None while the cache is away."""
        try:
            asked = self._embed_query.remote(last_user_text(request.messages))
            return bytes(await within(asked, PATIENCE_SECONDS))
        except (*GONE, TimeoutError):
            logger.warning("the cache made no embedding; the decision is made by the text alone")
            return None
