"""Random trees of messages: whatever is broken in them, one way through them is read, and no message twice."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from train.conversation import Conversation, parse_conversation
from train.export import chatgpt, claude, open_webui
from train.export.detect import FORMATS
from train.export.report import Told, Unusable
from train.export.tree import parents_of, way

NAMES = st.sampled_from([f"n{number}" for number in range(12)])
SOMETIMES = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), st.text(max_size=3))
TIMES = st.one_of(st.none(), st.floats(allow_nan=True), st.integers(0, 2**60), st.just("2024-01-01T00:00:00Z"))


@st.composite
def sound(draw: st.DrawFn) -> tuple[dict[str, str | None], str]:
    """A tree, and one of its leaves: each node's parent is one of those before it."""
    count = draw(st.integers(1, 30))
    parents: dict[str, str | None] = {"m0": None}
    for number in range(1, count):
        parents[f"m{number}"] = f"m{draw(st.integers(0, number - 1))}"
    leaves = sorted(set(parents) - set(parents.values()))
    return parents, draw(st.sampled_from(leaves))


def message(name: str, role: str, at: object) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [f"<{name}>"]}
    return {"id": name, "author": {"role": role}, "create_time": at, "content": content, "metadata": {}}


def above(parents: dict[str, str | None], node: str | None) -> list[str]:
    found: list[str] = []
    while node is not None:
        found.insert(0, node)
        node = parents[node]
    return found


def said(conversation: Conversation) -> list[str]:
    return [name for turn in conversation.messages for name in turn.content.split("\n\n")]


@settings(max_examples=60)
@given(sound(), st.data())
def test_the_way_is_from_the_root_to_the_reader_s_place(
    tree: tuple[dict[str, str | None], str], data: Any
) -> None:
    """And nothing of other branches is in it."""
    parents, leaf = tree
    roles = {name: "user" if len(above(parents, name)) % 2 else "assistant" for name in parents}
    mapping = {
        name: {
            "id": name,
            "parent": parent,
            "children": [child for child, its in parents.items() if its == name],
            "message": message(name, roles[name], data.draw(TIMES)),
        }
        for name, parent in parents.items()
    }
    order = data.draw(st.permutations(list(mapping)))
    told = Told()
    nodes = above(parents, leaf)
    answered = len(nodes) - len(nodes) % 2
    try:
        found = chatgpt.read({"mapping": {name: mapping[name] for name in order}, "current_node": leaf}, told)
    except Unusable:
        assert answered == 0
        return
    assert said(found) == [f"<{name}>" for name in nodes[:answered]]
    assert told.left_out["messages", "on other branches: regenerated or edited"] == len(parents) - len(nodes)


@settings(max_examples=60)
@given(sound())
def test_where_no_place_is_named_the_deepest_leaf_is_taken(tree: tuple[dict[str, str | None], str]) -> None:
    parents, _ = tree
    found = way(parents, None, lambda node: float(node[1:]))
    assert len(found.nodes) == max(len(above(parents, node)) for node in parents)
    assert found.guessed and not found.cut and not found.circle
    deepest = [node for node in parents if len(above(parents, node)) == len(found.nodes)]
    assert found.nodes[-1] == max(deepest, key=lambda node: int(node[1:])), "of several the newest"
    newest = way(parents, None, lambda node: float(node[1:]), prefer="newest")
    assert newest.nodes[-1] == f"m{len(parents) - 1}"


@settings(max_examples=80)
@given(st.dictionaries(NAMES, st.one_of(st.none(), NAMES, st.just("gone"))), st.one_of(SOMETIMES, NAMES))
def test_any_graph_has_a_way_that_ends(parents: dict[str, str | None], current: object) -> None:
    found = way(parents, current, lambda node: None)
    assert len(set(found.nodes)) == len(found.nodes) <= len(parents)
    assert bool(found.nodes) == bool(parents)
    for before, after in pairwise(found.nodes):
        assert parents[after] == before
    if current in parents:
        assert found.nodes[-1] == current and not found.guessed


def json_values(depth: int = 3) -> st.SearchStrategy[Any]:
    words = st.sampled_from(
        ["user", "assistant", "system", "tool", "text", "code", "all", "multimodal_text", "n1"]
    )
    keys = st.one_of(words, st.sampled_from(FIELDS))
    leaf = st.one_of(SOMETIMES, words, NAMES, st.text(max_size=5))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=6)),
        max_leaves=10,
    )


FIELDS = [
    *("id", "uuid", "mapping", "message", "parent", "children", "current_node", "author"),
    *(
        "role",
        "content",
        "content_type",
        "parts",
        "text",
        "create_time",
        "metadata",
        "is_visually_hidden_from_conversation",
    ),
    *("weight", "recipient", "status", "chat_messages", "sender", "created_at", "type", "input"),
    *(
        "attachments",
        "files",
        "extracted_content",
        "parent_message_uuid",
        "chat",
        "history",
        "messages",
        "currentId",
    ),
    *("parentId", "timestamp", "entries", "conversations", "query", "answer", "blocks", "markdown_block"),
    *("from", "value", "instruction", "output", "prompt", "chosen", "rejected", "request_id"),
    *("title", "rating", "tags", "at", "thoughts", "name", "language", "channel"),
    *("annotation", "error", "done"),
]


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    """Nodes of a tree in any state: cycles, orphans, nulls, messages that are none."""
    roles = st.sampled_from(["user", "assistant", "system", "tool", "critic", None])
    parts = st.lists(st.one_of(st.text(max_size=4), st.none(), json_values()), max_size=3)
    content = st.one_of(
        st.fixed_dictionaries({"content_type": st.sampled_from(["text", "code", "thoughts", 3]), "parts": parts}),
        st.fixed_dictionaries({"content_type": st.just("execution_output"), "text": st.text(max_size=4)}),
        json_values(),
    )
    said = st.fixed_dictionaries(
        {
            "author": st.one_of(st.fixed_dictionaries({"role": roles}), json_values()),
            "role": roles,
            "sender": st.sampled_from(["human", "assistant", "x"]),
            "content": st.one_of(content, st.text(max_size=4)),
            "create_time": TIMES,
            "timestamp": TIMES,
            "created_at": TIMES,
            "metadata": json_values(),
            "recipient": st.sampled_from(["all", "python", None, 4, "canmore.create_textdoc"]),
            "annotation": json_values(),
            "files": json_values(),
            "attachments": json_values(),
        }
    )
    parent = st.one_of(NAMES, st.none(), st.just("gone"), SOMETIMES)
    node = st.fixed_dictionaries(
        {
            "message": st.one_of(said, json_values()),
            "parent": parent,
            "children": st.one_of(st.lists(NAMES), SOMETIMES),
        }
    )
    flat = st.builds(lambda one, up: {**one, "parentId": up, "parent_message_uuid": up}, said, parent)
    return draw(
        st.dictionaries(
            NAMES, st.one_of(st.builds(lambda a, b: {**a, **b}, node, flat), json_values()), max_size=10
        )
    )


@settings(max_examples=40)
@given(nodes(), st.one_of(NAMES, SOMETIMES), json_values(), TIMES)
def test_no_tree_breaks_a_reader(tree: dict[str, Any], current: Any, about: Any, at: Any) -> None:
    """It is read, or it is said why not; what is read can be written and read again."""
    rest = about if isinstance(about, dict) else {"title": about}
    listed = [{**node, "uuid": name} if isinstance(node, dict) else node for name, node in tree.items()]
    for read, value in (
        (chatgpt.read, {**rest, "mapping": tree, "current_node": current, "create_time": at}),
        (open_webui.read, {**rest, "history": {"messages": tree, "currentId": current}}),
        (claude.read, {**rest, "chat_messages": listed * 2, "created_at": at}),
    ):
        try:
            found = read(value, Told())
        except Unusable:
            continue
        again = parse_conversation(found.model_dump_json().encode(), "it")
        assert again.digest() == found.digest() and again.id == found.id != ""
        assert found.messages[-1].role == "assistant"
        roles = [turn.role for turn in found.messages]
        assert all(a != b for a, b in pairwise(roles)), "turns alternate"


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values(), max_size=8))
def test_no_object_breaks_any_reader_that_claims_it(value: dict[str, Any]) -> None:
    for form in FORMATS.values():
        if form.claims(value):
            try:
                found = form.read(value, Told())
            except Unusable:
                continue
            assert parse_conversation(found.model_dump_json().encode(), "it").id == found.id


def test_a_rating_is_of_the_last_answer_that_is_kept() -> None:
    """Whichever of its messages was rated; not of one before it."""

    def rating(*ratings: tuple[str, str | None]) -> str | None:
        above, mapping, said = None, {}, {}
        for place, (role, rated) in enumerate(ratings):
            name = f"m{place}"
            mapping[name] = {"parent": above, "message": message(name, role, None)}
            above = name
            if rated:
                said[name] = rated
        return chatgpt.read({"mapping": mapping, "current_node": above}, Told(said)).rating  # type: ignore[arg-type]

    question, good, bad, plain = ("user", None), ("assistant", "up"), ("assistant", "down"), ("assistant", None)
    assert rating(question, good) == "up"
    assert rating(question, good, plain) == rating(question, plain, good) == "up"
    assert rating(question, good, question, plain) is None
    assert rating(question, bad, question, good, question) == "up"


def test_a_tree_of_many_thousand_messages_is_read_in_no_time_and_without_recursion() -> None:
    """Also one that is a single circle."""
    count = 50_000
    chain: dict[str, str | None] = {f"m{n}": f"m{n - 1}" if n else None for n in range(count)}
    assert len(way(chain, None, lambda node: None).nodes) == count
    circle = {**chain, "m0": f"m{count - 1}"}
    assert way(circle, None, lambda node: None).circle


def test_a_parent_is_found_by_its_children_too() -> None:
    nodes = {"a": {"parent": None, "children": ["b"]}, "b": {"parent": None}, "c": {"parent": "gone"}, "d": None}
    assert parents_of(nodes) == {"a": None, "b": "a", "c": "gone", "d": None}


def test_an_answer_that_was_disliked_is_not_learned_from() -> None:
    """Unless it is the last: that is the conversation's rating."""
    roles = ("user", "assistant", "user", "assistant")
    names = [f"m{place}" for place in range(4)]
    mapping = {
        name: {"parent": f"m{place - 1}" if place else None, "message": message(name, role, None)}
        for place, (name, role) in enumerate(zip(names, roles, strict=True))
    }
    told = Told({"m1": "down", "m3": "down"})
    read = chatgpt.read({"mapping": mapping, "current_node": "m3"}, told)
    assert ([one.weight for one in read.messages], read.rating) == ([1, 0, 1, 1], "down")
    turns = [
        {"role": role, "content": f"{role} {place}", "annotation": {"rating": -1}}
        for place, role in enumerate(roles)
    ]
    read = open_webui.read({"chat": {"messages": turns}}, Told())
    assert ([one.weight for one in read.messages], read.rating) == ([1, 0, 1, 1], "down")
