"""What the plugin costs: ratios measured side by side in one run, repeats interleaved, medians.

    python benchmarks/bench.py            # 1,000 tests
    python benchmarks/bench.py --big      # and 10,000

Real time and batch mode speak to the same sandbox in a process of its own, at zero latency. Other
plugins are not loaded. Needs the extra ``sandbox``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HEAVY = {
    "anthropic",
    "genai_prices",
    "httpx",
    "httpx2",
    "langchain",
    "langchain_core",
    "openai",
    "pydantic",
    "rich",
}

NO_OP = """
import pytest

@pytest.mark.parametrize("n", range({n}))
def test_no_op(n):
    pass
"""
ONE_CALL = """
import pytest
from openai import OpenAI

client = OpenAI()

@pytest.mark.langasync
@pytest.mark.parametrize("n", range({n}))
def test_one_call(n):
    completion = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{{"role": "user", "content": f"Say {{n}}"}}]
    )
    assert completion.choices[0].message.content
"""
CONFTEST = """
import os
import sys

def pytest_configure(config):
    config.addinivalue_line("markers", "langasync: also known where the plugin is not loaded")

def pytest_sessionfinish():
    if "BENCH_MODULES" in os.environ:
        with open(os.environ["BENCH_MODULES"], "w") as file:
            file.write("\\n".join(sys.modules))
"""


@dataclass(frozen=True)
class Measure:
    """One child: wall and CPU seconds, peak resident memory in MB."""

    wall: float
    cpu: float
    memory: float


def run_pytest(folder: Path, *arguments: str, env: Mapping[str, str]) -> Measure:
    """Run pytest in ``folder`` and measure it. Raises ``RuntimeError`` when it fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    base = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI", "PYTEST"))}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**base, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env},
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read()[-4000:]}")
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def interleaved(
    repeats: int, runs: Mapping[str, Callable[[], Measure]]
) -> dict[str, list[Measure]]:
    """Run everything once per repeat, in turn, so that a busy moment hits all alike."""
    measures: dict[str, list[Measure]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            measures[name].append(run())
    return measures


def median(measures: list[Measure], what: str) -> float:
    """Return the median of one figure."""
    return statistics.median(float(getattr(measure, what)) for measure in measures)


def show(title: str, figure: float, base: float, goal: float, unit: str) -> None:
    """Print one ratio with the figures it is made of."""
    ratio = figure / base
    verdict = "reached" if ratio <= goal else "MISSED"
    print(
        f"{title:<46} {ratio:6.3f}  goal {goal:<4}  {verdict}"
        f"  ({figure:.2f} {unit} against {base:.2f} {unit})",
        flush=True,
    )


@contextlib.contextmanager
def sandbox(folder: Path) -> Iterator[str]:
    """Run the sandbox in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "pytest_langasync.sandbox", "--dir", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def suite(parent: Path, name: str, source: str, number: int) -> Path:
    """Write a suite of ``number`` tests; return its folder."""
    folder = parent / name
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_bench.py").write_text(source.format(n=number))
    return folder


def bench_inactive(parent: Path, repeats: int) -> None:
    """(a) Installed but inactive, against an empty plugin: pytest looks for either in the same way.

    CPU seconds say more than the wall's: a busy machine hardly changes them.
    """
    folder = suite(parent, "no_op", NO_OP, 1000)
    (folder / "empty.py").touch()
    path = {"PYTHONPATH": str(folder)}
    seen = parent / "modules.txt"
    run_pytest(folder, "-p", "langasync", env={"BENCH_MODULES": str(seen)})
    loaded = {name.split(".")[0] for name in seen.read_text().split()}
    heavy = sorted(loaded & HEAVY)
    print(f"{'(a) heavy imports of an inactive run':<46} {', '.join(heavy) or 'none'}", flush=True)
    measures = interleaved(
        repeats,
        {
            "without": lambda: run_pytest(folder, "-p", "empty", env=path),
            "inactive": lambda: run_pytest(folder, "-p", "langasync", env=path),
        },
    )
    for what in ("wall", "cpu"):
        inactive, without = (median(measures[name], what) for name in ("inactive", "without"))
        show(f"(a) inactive / without, 1,000 tests, {what}", inactive, without, 1.02, "s")


def bench_active(parent: Path, url: str, number: int, repeats: int) -> None:
    """(b) cold, (c) warm and (d) memory, against the same tests in real time."""
    folder = suite(parent, f"one_call_{number}", ONE_CALL, number)
    env = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-bench"}

    def batch() -> Measure:
        return run_pytest(folder, "-p", "langasync", "--langasync-batch", env=env)

    def cold() -> Measure:
        shutil.rmtree(folder / ".langasync", ignore_errors=True)
        # A nonce in the prompts would do as well, but what is asked must stay the same.
        forget = urllib.request.Request(f"{url}/_sandbox/reset", data=b"{}", method="POST")
        urllib.request.urlopen(forget).close()
        return batch()

    measures = interleaved(
        repeats, {"real time": lambda: run_pytest(folder, env=env), "cold": cold, "warm": batch}
    )
    plain = median(measures["real time"], "wall")
    show(
        f"(b) cold / real time, {number:,} tests", median(measures["cold"], "wall"), plain, 2.2, "s"
    )
    show(
        f"(c) warm / real time, {number:,} tests", median(measures["warm"], "wall"), plain, 1.0, "s"
    )
    memory = median(measures["real time"], "memory")
    peak = median(measures["cold"], "memory")
    show(f"(d) peak memory cold / real time, {number:,} tests", peak, memory, 1.5, "MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=1000, help="one-call tests (default 1000)")
    parser.add_argument("--big", action="store_true", help="also 10,000 one-call tests")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each run (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        parent = Path(name)
        bench_inactive(parent, 3 * options.repeats)
        with sandbox(parent / "sandbox") as url:
            for number in (options.tests, *([10_000] if options.big else [])):
                bench_active(parent, url, number, options.repeats)


if __name__ == "__main__":
    main()
