"""A change for the worse, told from noise: a run is compared with the one before it.

    pytest examples/test_regression.py --langasync-sandbox
    pytest examples/test_regression.py --langasync-sandbox --prompt hasty \\
        --langasync-baseline=last --langasync-fail-on-regression

The second command plants a regression: a prompt that makes the model guess.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

if TYPE_CHECKING:
    from pytest_langasync import Langasync

PROMPTS = {
    "careful": "Add up digit by digit. Give the sum last.",
    "hasty": "Guess quickly. Give the sum last.",
}
SUMS = [(17 * n % 83, 31 * n % 97) for n in range(1, 17)]


@pytest.mark.langasync(min_pass_rate=0.9)
@pytest.mark.parametrize(("left", "right"), SUMS)
def test_sums(left: int, right: int, langasync: Langasync, pytestconfig: pytest.Config) -> None:
    """A model adds up; nine right of ten would do."""
    prompt = PROMPTS[pytestconfig.getoption("--prompt")]
    response = OpenAI().responses.create(
        model="gpt-5-mini", instructions=prompt, input=f"Add {left} and {right}."
    )
    found = int(re.findall(r"\d+", response.output_text)[-1])
    langasync.score("closeness", 1 / (1 + abs(left + right - found)))
    assert found == left + right
