"""What the batch API saves, in five scenes, on the embedded sandbox: no key, no network, no cost.

    python examples/cost_optimisation.py [pairs.jsonl]

``pairs.jsonl`` holds one ``{"question": …, "answer": …}`` a line, such as GSM8K's test set; without
it the pairs are sums. Prices are the real ones of the model below.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

from pytest_langasync import CostMonitor, HybridBatchProcessor, wrap_chain

MODEL = "gpt-5-mini"
URGENT = 100

Pair = dict[str, Any]


def build_chain() -> Any:
    """Rate an answer from 1 to 10: the chain of an ordinary LangChain application."""
    prompt = ChatPromptTemplate.from_template(
        "Rate the answer from 1 to 10. Reply with the number alone.\n"
        "Question: {question}\nAnswer: {answer}"
    )
    # No key is used here: everything goes to the sandbox.
    model = ChatOpenAI(model=MODEL, api_key=lambda: "sandbox", max_completion_tokens=200)
    return prompt | model | StrOutputParser()


def load_pairs(path: str | None, count: int) -> list[Pair]:
    """Read question/answer pairs, or make sums; every tenth answer of these is wrong."""
    if path is None:
        return [
            {"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1 + (n % 10 == 0))}
            for n in range(count)
        ]
    with Path(path).open(encoding="utf-8") as lines:
        pairs = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [{"question": p["question"], "answer": p["answer"]} for p in pairs]


def model_reply(request: Any) -> str:
    """What the sandbox's model says: 9 for a right sum, 2 for a wrong one, 8 for the rest."""
    found = re.search(r"What is (\d+) \+ (\d+)\?\nAnswer: (\d+)", request.prompt)
    if found is None:
        return "8"
    return "9" if int(found[1]) + int(found[2]) == int(found[3]) else "2"


def urgent(pair: Pair) -> bool:
    """Tell which inputs cannot wait; a real application would look at who asked."""
    return bool(pair.get("urgent"))


def main(path: str | None = None) -> None:
    """Play the five scenes and print what each cost."""
    pairs = load_pairs(path, 1000)
    with tempfile.TemporaryDirectory() as cache:
        options: dict[str, Any] = {
            "cache_dir": cache, "sandbox": True, "sandbox_reply": model_reply,
        }  # fmt: skip
        everything = CostMonitor()
        with everything:
            traditional(pairs[:20], options)
            batch(pairs[20:40], options)
            hybrid(pairs[40:60], options)
            monitor_by_hand()
            case_study(pairs, options)
        title("Everything above, from real usage and real prices")
        everything.print_report()


def traditional(pairs: list[Pair], options: dict[str, Any]) -> None:
    """Send everything at once, at list price: what ``chain.batch`` does."""
    title("1. Traditional: chain.batch at list price")
    with CostMonitor() as monitor:
        HybridBatchProcessor(build_chain(), **options).batch(pairs)
    monitor.print_report()


def batch(pairs: list[Pair], options: dict[str, Any]) -> None:
    """Submit a batch, poll it, read the results: the chain is unchanged."""
    title("2. The same chain as a batch")
    chain = wrap_chain(build_chain(), **options)
    estimate = chain.estimate_cost(pairs)
    write(f"estimated: at most ${estimate:.4f}, in real time ${estimate.list_price:.4f}")
    with CostMonitor() as monitor:
        job = chain.submit_batch(pairs, max_retries=3, priority="high")
        write(f"{job.id} is {job.status}")
        while job.get_status() != "completed":
            time.sleep(0.05)
    write(f"{job.id} is {job.status}; first ratings: {', '.join(job.get_results()[:5])}")
    monitor.print_report()


def hybrid(pairs: list[Pair], options: dict[str, Any]) -> None:
    """Send what is urgent at once and the rest as a batch; results come in the inputs' order."""
    title("3. Hybrid: urgent inputs at once, the rest as a batch")
    marked = [{**pair, "urgent": index < 5} for index, pair in enumerate(pairs)]
    with CostMonitor() as monitor:
        processor = HybridBatchProcessor(build_chain(), classify=urgent, **options)
        ratings = processor.batch(marked, use_batch_api=True)
    write(f"{len(ratings)} ratings in order: {', '.join(ratings[:8])} …")
    monitor.print_report()


def monitor_by_hand() -> None:
    """Reckon with numbers of your own, where nothing has been run yet."""
    title("4. The monitor, by hand: $0.001 a request")
    monitor = CostMonitor()
    monitor.record_batch(100, use_batch_api=False, cost_per_request=0.001)
    monitor.record_batch(900, use_batch_api=True, cost_per_request=0.001)
    monitor.print_report()


def case_study(pairs: list[Pair], options: dict[str, Any]) -> None:
    """Rate 1,000 question/answer pairs: 100 are urgent, 900 can wait."""
    title(f"5. Case study: {len(pairs):,} pairs, {URGENT} of them urgent")
    marked = [{**pair, "urgent": index < URGENT, "case": 5} for index, pair in enumerate(pairs)]
    started = time.monotonic()
    with CostMonitor() as monitor:
        processor = HybridBatchProcessor(build_chain(), classify=urgent, **options)
        ratings = [int(rating) for rating in processor.batch(marked, use_batch_api=True)]
    good = sum(rating >= 7 for rating in ratings)
    write(f"{good:,} of {len(ratings):,} rated 7 or better, in {time.monotonic() - started:.0f} s")
    monitor.print_report()


def title(text: str) -> None:
    """Begin a scene."""
    write(f"\n{text}\n{'-' * len(text)}")


def write(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
