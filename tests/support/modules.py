"""Test modules made at random, whose tests look at what others left behind."""

from __future__ import annotations

import random

HEAD = """
FOUND, SEEN, COUNT = [], {}, 0

@pytest.fixture(scope="module")
def bag():
    found = []
    yield found
    FINALIZER

@pytest.fixture(scope="session")
def top(): return {}
"""
COMPARISONS = ("<", ">=", "==")


def module(seed: int) -> str:
    """Return the source of a module; the same seed makes the same one."""
    draw = random.Random(seed)
    last = draw.choice(["pass", f"assert len(found) < {draw.randint(1, 9)}"])
    tests = [_test(draw, number) for number in range(draw.randint(4, 7))]
    return "\n\n".join([HEAD.replace("FINALIZER", last), *tests])


def _test(draw: random.Random, number: int) -> str:
    fixtures = [name for name in ("bag", "top") if draw.random() < 0.4]
    steps = [_step(draw, number, fixtures) for _ in range(draw.randint(1, 4))]
    marked = draw.random() < 0.75
    for call in range(draw.choice([0, 1, 1, 2, 3]) if marked else 0):
        left = " {len(FOUND)}" if draw.random() < 0.3 else ""
        steps.append(f'ask(f"test {number} call {call}{left}")')
    draw.shuffle(steps)
    mark = "@pytest.mark.langasync\n" if marked else ""
    body = "\n    ".join(["global COUNT", *steps])
    return f"{mark}def test_{number}({', '.join(fixtures)}):\n    {body}"


def _step(draw: random.Random, number: int, fixtures: list[str]) -> str:
    comparison, few = draw.choice(COMPARISONS), draw.randint(0, 5)
    steps = [
        f"FOUND.append({number})", "COUNT += 1", f"SEEN[{number}] = len(FOUND)",
        f"assert len(FOUND) {comparison} {few}", f"assert COUNT {comparison} {few}",
    ]  # fmt: skip
    if "bag" in fixtures:
        steps += [f"bag.append({number})", f"assert len(bag) {comparison} {few}"]
    if "top" in fixtures:
        steps += [f"top[{number}] = 1", f"assert len(top) {comparison} {few}"]
    return draw.choice(steps)
