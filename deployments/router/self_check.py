"""Self-verification: a short question to a variant about its own answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from openai.types.chat import ChatCompletionChunk

from deployments.classifier.rules import last_user_text
from deployments.contract import ChatRequest

READ_CHARS = 4000
QUESTION = """Question:
{question}

Proposed answer:
{answer}

Is the proposed answer right? Reply with one word, yes or no."""


def self_check(request: ChatRequest, answer: str) -> ChatRequest:
    """What it is asked."""
    question = last_user_text(request.messages)[-READ_CHARS:]
    return yes_or_no(QUESTION.format(question=question, answer=answer[-READ_CHARS:]))


def yes_or_no(question: str) -> ChatRequest:
    """A question that is answered by one word, whose likelihood is what counts."""
    return ChatRequest(
        messages=[{"role": "user", "content": question}],
        max_tokens=2,
        temperature=0,
        logprobs=True,
        top_logprobs=10,
        stream=True,
        chat_template_kwargs={"enable_thinking": False},
    )


def stands(chunks: Iterable[ChatCompletionChunk]) -> bool:
    """Whether yes is likelier than no; without a word about it, the answer stands."""
    likely = likely_yes(chunks)
    return likely is None or likely >= 0.5


def likely_yes(chunks: Iterable[ChatCompletionChunk]) -> float | None:
    """P(yes) against no, at the first token that is one of them; None without such a token."""
    for chunk in chunks:
        for choice in chunk.choices:
            for token in (choice.logprobs.content or []) if choice.logprobs else []:
                seen = [
                    (token.token, token.logprob),
                    *((other.token, other.logprob) for other in token.top_logprobs),
                ]
                yes, no = (
                    max((value for text, value in seen if text.strip().lower() == word), default=-math.inf)
                    for word in ("yes", "no")
                )
                if yes > -math.inf or no > -math.inf:
                    return math.exp(yes) / (math.exp(yes) + math.exp(no))
    return None
