"""The owner looks at every conversation, in the terminal: takes it, leaves it out, rewrites it, tags it.

Every key that decides writes a line of the log before anything else happens, so the review can end anywhere and
goes on there. What was left out by a step can be looked at too, and brought back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, ProgressBar, Static, TextArea

from train.conversation import Conversation
from train.curate.decisions import OWNER, Decision, DecisionLog, Standing, VerdictName
from train.curate.steps import Entry

COLOURS = {"user": "cyan", "assistant": "green", "system": "magenta", "tool": "yellow"}
HELP = """\
a        accept: it goes into the dataset
r        reject: it stays out              R  the same, and say why
e        edit the turn that is marked      j  k  mark another turn
t        tags, with commas between them
u        undo the last decision
n  p     next, previous, without deciding
d        look at those that the steps left out (a: bring it back), and back to the others
A        accept all that are still to be looked at
q        stop; the same command goes on where you were

Any key closes this."""


def review(entries: Sequence[Entry], log: DecisionLog) -> bool:
    """Run it in this terminal; whether everything was decided."""
    return bool(ReviewApp(entries, log).run())


class Ask(ModalScreen[str | None]):
    """One line of text."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "leave")]
    CSS = """
    Ask { align: center middle; }
    Ask > Vertical { width: 70%; height: auto; border: round $accent; padding: 1; }
    """

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question, self._value = question, value

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question)
            yield Input(self._value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


class Edit(ModalScreen[str | None]):
    """One turn's text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "save", priority=True),
        Binding("escape", "dismiss(None)", "leave", priority=True),
    ]
    CSS = "Edit > TextArea { height: 1fr; }"

    def __init__(self, role: str, value: str) -> None:
        super().__init__()
        self._role, self._value = role, value

    def compose(self) -> ComposeResult:
        yield Label(f"{self._role}: ctrl+s saves, escape leaves it as it was")
        yield TextArea(self._value)
        yield Footer()

    def action_save(self) -> None:
        self.dismiss(self.query_one(TextArea).text)


class Help(ModalScreen[None]):
    """The keys."""

    CSS = "Help { align: center middle; } Help > Static { width: auto; border: round $accent; padding: 1 2; }"

    def compose(self) -> ComposeResult:
        yield Static(HELP)

    def on_key(self) -> None:
        self.dismiss(None)


class ReviewApp(App[bool]):
    """Shows `entries`; every decision goes to `log`."""

    TITLE = "GroupQwen: review"
    ENABLE_COMMAND_PALETTE = False
    CSS = "#where { height: 1; } #bar { height: 1; } #turns { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "accept", "accept"),
        Binding("r", "reject", "reject"),
        Binding("R", "reject_because", "reject, why", show=False),
        Binding("e", "edit", "edit"),
        Binding("t", "tag", "tag"),
        Binding("u", "undo", "undo"),
        Binding("j,down", "mark(1)", "mark", show=False),
        Binding("k,up", "mark(-1)", "mark", show=False),
        Binding("n,right", "go(1)", "next", show=False),
        Binding("p,left", "go(-1)", "previous", show=False),
        Binding("d", "left_out", "left out"),
        Binding("A", "accept_rest", "accept the rest", show=False),
        Binding("question_mark", "help", "help"),
        Binding("q", "leave", "stop"),
    ]

    def __init__(self, entries: Sequence[Entry], log: DecisionLog) -> None:
        super().__init__()
        self._decided = log
        self._queues = {True: [e for e in entries if e.kept], False: [e for e in entries if not e.kept]}
        self._kept = True
        self._marked = 0
        self._at = 0
        self._digests = {entry.read.id: entry.digest for entry in entries}
        self._read_log()
        self._at = self._first_open() or 0

    def compose(self) -> ComposeResult:
        yield Static(id="where")
        yield ProgressBar(total=max(1, len(self._queues[True])), id="bar", show_eta=False)
        yield VerticalScroll(Static(id="told"), id="turns")
        yield Footer()

    def on_mount(self) -> None:
        self._show()

    @property
    def entry(self) -> Entry | None:
        """The one that is shown."""
        queue = self._queues[self._kept]
        return queue[self._at] if queue else None

    @property
    def conversation(self) -> Conversation | None:
        """As it is by now."""
        entry = self.entry
        return Standing(self._decided.standing(), [entry.read]).applied(entry.now) if entry else None

    @property
    def open(self) -> int:
        """How many are to be decided still."""
        return sum(entry.now.id not in self._verdicts for entry in self._queues[True])

    def _read_log(self) -> None:
        self._verdicts = {
            each.conversation: each
            for each in self._decided.standing()
            if each.verdict in ("accept", "reject") and self._digests.get(each.conversation) == each.digest
        }

    def _first_open(self, start: int = 0) -> int | None:
        queue = self._queues[self._kept]
        places = [*range(start, len(queue)), *range(start)]
        return next((at for at in places if queue[at].now.id not in self._verdicts), None)

    def _show(self) -> None:
        self._read_log()
        queue, entry, conversation = self._queues[self._kept], self.entry, self.conversation
        self.query_one("#bar", ProgressBar).update(progress=len(self._queues[True]) - self.open)
        where = f"{self._at + 1 if queue else 0} of {len(queue)}{'' if self._kept else ' that were left out'}"
        if entry is None or conversation is None:
            self.query_one("#where", Static).update(Text(where))
            self.query_one("#told", Static).update(Text("Nothing here: q stops, d looks at the others."))
            return
        verdict = self._verdicts.get(entry.now.id)
        state = f"{verdict.verdict}ed" if verdict else "left out: " + entry.reason if not entry.kept else "open"
        where += f" · {self.open} open · {state} · {conversation.title or conversation.id}"
        if conversation.tags:
            where += f" · tags: {', '.join(conversation.tags)}"
        self.query_one("#where", Static).update(Text(where, no_wrap=True, overflow="ellipsis"))
        self.query_one("#told", Static).update(self._told(conversation))

    def _told(self, conversation: Conversation) -> Text:
        told = Text()
        for at, message in enumerate(conversation.messages):
            muted = "" if message.weight else " (not learned from)"
            told.append(
                f"{'▶' if at == self._marked else ' '} {message.role}{muted}\n", f"bold {COLOURS[message.role]}"
            )
            told.append(message.content + "\n\n")
        if conversation.rejected is not None:
            told.append("  worse answer\n", "bold red")
            told.append(conversation.rejected + "\n")
        return told

    def _decide(self, verdict: VerdictName, reason: str = "", **more: object) -> None:
        entry = self.entry
        if entry is None:
            return
        given = {"by": OWNER, "conversation": entry.now.id, "digest": entry.digest, "verdict": verdict}
        self._decided.add(Decision.model_validate({**given, "reason": reason, **more}))
        self._read_log()

    def _onward(self) -> None:
        if self._kept and not self.open:
            self.exit(True)
            return
        after = self._first_open(min(self._at + 1, len(self._queues[self._kept]) - 1))
        self._at = self._at if after is None else after
        self._marked = 0
        self._show()

    def action_accept(self) -> None:
        self._decide("accept")
        self._onward()

    def action_reject(self) -> None:
        self._decide("reject", "by the owner")
        self._onward()

    def action_reject_because(self) -> None:
        def answered(reason: str | None) -> None:
            if reason is not None:
                self._decide("reject", reason or "by the owner")
                self._onward()

        self.push_screen(Ask("Why not?"), answered)

    def action_edit(self) -> None:
        conversation = self.conversation
        if conversation is None:
            return
        message = conversation.messages[self._marked]

        def edited(text: str | None) -> None:
            if text is not None and text != message.content:
                turns = list(conversation.messages)
                turns[self._marked] = message.model_copy(update={"content": text})
                self._decide(
                    "edit", f"turn {self._marked + 1}", messages=tuple(turns), rejected=conversation.rejected
                )
                self._show()

        self.push_screen(Edit(message.role, message.content), edited)

    def action_tag(self) -> None:
        conversation = self.conversation
        if conversation is None:
            return

        def tagged(text: str | None) -> None:
            if text is not None:
                tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
                self._decide("tag", tags=tags)
                self._show()

        self.push_screen(Ask("Tags, with commas between them", ", ".join(conversation.tags)), tagged)

    def action_undo(self) -> None:
        undone = self._decided.undo()
        if undone is None:
            self.notify("There is nothing to undo.")
            return
        for kept, queue in self._queues.items():
            place = next((at for at, entry in enumerate(queue) if entry.now.id == undone.conversation), None)
            if place is not None:
                self._kept, self._at, self._marked = kept, place, 0
        self._show()

    def action_mark(self, by: int) -> None:
        conversation = self.conversation
        if conversation is not None:
            self._marked = min(max(0, self._marked + by), len(conversation.messages) - 1)
            self._show()

    def action_go(self, by: int) -> None:
        self._at = min(max(0, self._at + by), max(0, len(self._queues[self._kept]) - 1))
        self._marked = 0
        self._show()

    def action_left_out(self) -> None:
        self._kept = not self._kept
        self._at, self._marked = (self._first_open() or 0), 0
        self._show()

    def action_accept_rest(self) -> None:
        self._decided.add(
            *(
                Decision(
                    by=OWNER, conversation=entry.now.id, digest=entry.digest, verdict="accept", reason="the rest"
                )
                for entry in self._queues[True]
                if entry.now.id not in self._verdicts
            )
        )
        self.exit(True)

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_leave(self) -> None:
        self._read_log()
        self.exit(self.open == 0)
