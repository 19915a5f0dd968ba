"""Parts of a run's report."""

from __future__ import annotations

HOSTILE = "</td><script>x</script> ![i](http://x/y) [l](http://x) @team #1 `` ` | **b** <!-- \n# H"
"""A model's or a stranger's text that would be markup in Markdown and in HTML."""
TOTALS = {
    "requests": 2, "saved_usd": 0.5, "paid_usd": 0.5, "saved_percent": 50.0, "unknown_price": 0,
}  # fmt: skip
