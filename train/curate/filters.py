"""Filters that look at one conversation: each says what becomes of it, and why.

A filter is made from its step's rules, once, and then asked about every conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.curation import Act, Flaws, Language, Length, Refusals, Shape, Wording
from train.conversation import Conversation, DataError, Message
from train.curate.normal import prose


@dataclass(frozen=True)
class Verdict:
    """What a filter says: the conversation as it goes on, or None; and why it was changed or left out."""

    conversation: Conversation | None
    reason: str = ""


Filter = Callable[[Conversation], Verdict]
SURROGATES = re.compile(r"[\ud800-\udfff]")


def shape(rules: Shape) -> Filter:
    """Without empty turns, and up to the last answer. A thought without an end is none."""

    def judge(conversation: Conversation) -> Verdict:
        kept = _answered([_clean(message) for message in conversation.messages if message.content.strip()])
        roles = [message.role for message in kept]
        if "assistant" not in roles:
            return Verdict(None, "no answer")
        if "user" not in roles or roles.index("assistant") < roles.index("user"):
            return Verdict(None, "no question before the first answer")
        if kept == conversation.messages:
            return Verdict(conversation)
        cut = len(conversation.messages) - len(kept)
        why = f"{cut} empty or unanswered turns cut" if cut else "letters that are none replaced"
        return Verdict(conversation.model_copy(update={"messages": kept}), why)

    return judge


def _clean(message: Message) -> Message:
    """Halves of letters, which some exports hold, are in no tokenizer's vocabulary."""
    text = SURROGATES.sub("\ufffd", message.content).replace("\r\n", "\n").replace("\x00", "")
    return message if text == message.content else message.model_copy(update={"content": text})


def flaws(rules: Flaws) -> Filter:
    """Answers that broke off or that are errors."""
    errors = _compiled(rules.texts)

    def flaw(message: Message) -> str:
        if message.flaw:
            return {"truncated": "an answer that broke off", "error": "an error"}[message.flaw]
        if any(pattern.match(message.content.lstrip()) for pattern in errors):
            return "an error message as answer"
        if rules.unclosed_code and len(re.findall(r"(?m)^\s*```", message.content)) % 2:
            return "code that broke off"
        return ""

    return lambda conversation: _acted(conversation, rules.act, flaw)


def length(rules: Length) -> Filter:
    """Too short or too long."""

    def judge(conversation: Conversation) -> Verdict:
        turns = [message for message in conversation.messages if message.role in ("user", "assistant")]
        answers = sum(len(message.content.strip()) for message in turns if message.role == "assistant")
        whole = sum(len(message.content) for message in conversation.messages)
        if len(turns) < rules.fewest_turns:
            return Verdict(None, f"fewer than {rules.fewest_turns} turns")
        if len(turns) > rules.most_turns:
            return Verdict(None, f"more than {rules.most_turns} turns")
        if answers < rules.fewest_letters:
            return Verdict(None, f"answers of fewer than {rules.fewest_letters} letters")
        if whole > rules.most_letters:
            return Verdict(None, f"more than {rules.most_letters} letters")
        return Verdict(conversation)

    return judge


def language(rules: Language) -> Filter:
    """Not in a language that is wanted. Short texts, and those of which it is not sure, stay."""
    if not rules.allow:
        return Verdict
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def judge(conversation: Conversation) -> Verdict:
        text = " ".join(prose(m.content) for m in conversation.messages if m.role in ("user", "assistant"))[:4000]
        if len(text.strip()) < rules.fewest_letters:
            return Verdict(conversation)
        found, chance = identifier.classify(text)
        # (zxx: no language at all.)
        if chance >= rules.sureness and found not in (*rules.allow, "zxx"):
            return Verdict(None, f"in language {found}")
        return Verdict(conversation)

    return judge


def refusals(rules: Refusals) -> Filter:
    """Answers that refuse, or that do not know."""
    patterns = [
        ("a refusal", _compiled(rules.refusals)),
        ("an answer that does not know", _compiled(rules.uncertainty)),
    ]

    def flaw(message: Message) -> str:
        begin = message.content.lstrip()[: rules.within]
        return next((why for why, ones in patterns if any(one.search(begin) for one in ones)), "")

    def judge(conversation: Conversation) -> Verdict:
        if conversation.rating == "down":
            return Verdict(conversation)
        return _acted(conversation, rules.act, flaw)

    return judge


def wording(rules: Wording) -> Filter:
    """Words that are kept out. Raises `DataError` where the owner's file cannot be read."""
    words = list(rules.words)
    if rules.file is not None:
        try:
            lines = rules.file.expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the list of words {rules.file}: {error}") from None
        words += [word for line in lines if (word := line.split("#", 1)[0].strip())]
    spaced = (r"\s+".join(map(re.escape, word.replace("’", "'").split())) for word in sorted(set(words)))
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(spaced)})(?!\w)", re.IGNORECASE) if words else None

    def judge(conversation: Conversation) -> Verdict:
        for message in conversation.messages:
            if pattern and message.role in rules.roles and pattern.search(message.content.replace("’", "'")):
                # (The word itself is not told: what is kept out stays out of the decisions too.)
                return Verdict(None, f"words that are kept out, said by the {message.role}")
        return Verdict(conversation)

    return judge


def _acted(conversation: Conversation, act: Act, flaw: Callable[[Message], str]) -> Verdict:
    """Leave out, or do not learn from, the answers that have a flaw."""
    found = {
        at: why
        for at, message in enumerate(conversation.messages)
        if message.role == "assistant" and message.weight > 0 and (why := flaw(message))
    }
    if not found:
        return Verdict(conversation)
    why = ", ".join(sorted(set(found.values())))
    if act == "drop":
        return Verdict(None, why)
    messages = tuple(
        message.model_copy(update={"weight": 0.0}) if at in found else message
        for at, message in enumerate(conversation.messages)
    )
    if not any(message.role == "assistant" and message.weight > 0 for message in messages):
        return Verdict(None, why)
    last = max(at for at, message in enumerate(messages) if message.role == "assistant")
    if last not in found:
        return Verdict(conversation.model_copy(update={"messages": messages}), f"not learned from: {why}")
    if conversation.rejected is not None:
        return Verdict(None, why)
    # Nothing comes after it that would need it. What was said of the last answer was said of this one.
    cut = _answered(messages[:last])
    return Verdict(conversation.model_copy(update={"messages": cut, "rating": None}), f"cut before {why}")


def _answered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Up to the last answer."""
    kept = list(messages)
    while kept and kept[-1].role != "assistant":
        kept.pop()
    return tuple(kept)


def _compiled(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Raises `DataError` for what is no regular expression."""
    try:
        return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    except re.error as error:
        raise DataError(f"the rules of curation: {error.pattern!r} is no regular expression: {error}") from None


FILTERS: dict[str, Callable[..., Filter]] = {
    "shape": shape,
    "flaws": flaws,
    "length": length,
    "language": language,
    "refusals": refusals,
    "wording": wording,
}
