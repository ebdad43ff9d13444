from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deployments.llamacpp.sampling import token_logprob

logits = arrays(np.float32, st.integers(1, 60), elements=st.floats(-200, 200, width=32))


@settings(max_examples=300)
@given(logits, st.integers(0, 1000), st.integers(0, 20))
def test_logprobs_are_the_log_of_numpys_softmax(row: np.ndarray, token: int, n_top: int) -> None:
    token, n_top = token % len(row), min(n_top, len(row))
    exact = row.astype(np.float64)
    expected = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    given_out = token_logprob(row, token, n_top)
    assert given_out.token == token
    assert given_out.logprob == pytest.approx(expected[token], abs=2e-4)
    assert [value for _, value in given_out.top] == pytest.approx(sorted(expected, reverse=True)[:n_top], abs=2e-4)
    assert all(value == pytest.approx(expected[one], abs=2e-4) for one, value in given_out.top)
    assert len({one for one, _ in given_out.top}) == n_top


def test_a_banned_token_has_no_probability_and_the_rest_add_up_to_one() -> None:
    row = np.array([1.0, -np.inf, 2.0], np.float32)
    top = dict(token_logprob(row, 0, 3).top)
    assert top[1] == -np.inf
    assert sum(np.exp(list(top.values()))) == pytest.approx(1)
    assert list(top) == [2, 0, 1], "the likeliest comes first"
