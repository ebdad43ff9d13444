"""Questions of all kinds, drawn: new ones without end, a few that come again and again, and those in other words.
Pure."""

from __future__ import annotations

import random

THINGS = (
    "grass", "snow", "coal", "blood", "milk", "gold", "the sky", "the sea", "a lemon", "a crow", "a rose", "ivory",
    "chocolate", "a carrot", "salt", "rust", "amber", "a flamingo", "moss", "a raven", "sulphur", "jade", "ash",
)  # fmt: skip
NEW = (
    "Which word goes with {a}?",
    "What is {a} plus {b}?",
    "Say something short of {thing} and the number {a}.",
    "Translate to French: there are {a} pictures of {thing}.",
    "Write a Python function that returns {thing!r} {a} times.",
    "Explain step by step why one would compare {thing} with {other}, and prove that {a} is less than {b}.",
    "Summarize in a few words: {a} people saw {thing} on the way, {b} people saw {other}, and nobody saw both.",
)
SAME = "In one word: what colour is {thing}?"
OTHERWISE = (
    "What colour is {thing}? Say it in one word.",
    "Tell me in one word which colour {thing} has.",
    "In one word, which colour is {thing}?",
)
FURTHER = ("And what else?", "Say it in other words.", "Why is that so?", "Give one example, please.")


class Questions:
    """Drawn by `draw`."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def fresh(self) -> str:
        """One that was not asked before, nor will be."""
        a, b = (self._draw.randrange(10_000, 10_000_000) for _ in range(2))
        thing, other = self._draw.sample(THINGS, 2)
        return self._draw.choice(NEW).format(a=a, b=a + b, thing=thing, other=other)

    def again(self) -> str:
        """One of a few."""
        return SAME.format(thing=self._draw.choice(THINGS))

    def otherwise(self) -> str:
        """One of these few in other words, or in capitals."""
        if self._draw.random() < 0.5:
            return "".join(self._draw.choice((letter, letter.upper())) for letter in self.again())
        return self._draw.choice(OTHERWISE).format(thing=self._draw.choice(THINGS))

    def further(self) -> str:
        """A later turn's."""
        return self._draw.choice(FURTHER)
