"""`/v1/embeddings` beside the embedder itself: what may be asked, and the shape of the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from configs.profile import Limits
from deployments.contract import ChatError, invalid
from serve_app.schemas import EmbeddingAnswer, EmbeddingItem, EmbeddingRequest, EmbeddingUsage, base64_floats


def texts_of(body: EmbeddingRequest, name: str, dimensions: int, limits: Limits) -> list[str]:
    """What is to be embedded. Raises `ChatError` for what the embedder `name` does not do."""
    if body.model not in (None, name, "auto") and not body.model.startswith("text-embedding-"):
        raise ChatError(
            f"The embedding model {body.model!r} does not exist here; there is {name}.",
            status=404,
            kind="not_found_error",
            code="model_not_found",
            param="model",
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or len(texts) > limits.embedding_inputs:
        raise invalid(f"input must hold 1 to {limits.embedding_inputs} texts", param="input")
    if not all(isinstance(text, str) for text in texts):
        raise invalid(
            "input holds token ids, which are another model's. Send text (in LangChain: "
            "check_embedding_ctx_length=False).",
            param="input",
        )
    if body.dimensions not in (None, dimensions):
        raise invalid(f"{name} has {dimensions} dimensions", param="dimensions")
    return [str(text) for text in texts]


def answer(body: EmbeddingRequest, name: str, vectors: Sequence[Sequence[float]], tokens: int) -> EmbeddingAnswer:
    """In OpenAI's shape."""
    data = [
        EmbeddingItem(
            index=i, embedding=base64_floats(vector) if body.encoding_format == "base64" else list(vector)
        )
        for i, vector in enumerate(vectors)
    ]
    return EmbeddingAnswer(data=data, model=name, usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens))
