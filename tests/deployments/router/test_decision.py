from __future__ import annotations

import json

from deployments.router.decision import Candidate, RouteDecision


def test_a_decision_is_json_and_its_header_is_ascii() -> None:
    decision = RouteDecision(
        variant="v",
        reason="für Übersetzung 🙂",
        requested="auto",
        device="server",
        complexity=0.256,
        level="simple",
        task="chat",
        candidates=(Candidate("v"), Candidate("w", "busy")),
        parameters={"temperature": 0.7},
    )
    assert decision.header() == "f?r ?bersetzung ?; complexity=0.26; level=simple; task=chat"
    row = json.loads(json.dumps(decision.as_dict()))
    passed = [(candidate["variant"], candidate["passed_over"]) for candidate in row["candidates"]]
    assert passed == [("v", None), ("w", "busy")]
    assert row["parameters"] == {"temperature": 0.7}


def test_a_decision_that_was_not_classified_says_only_why() -> None:
    assert RouteDecision("v", "answered before", "auto", "server").header() == "answered before"
