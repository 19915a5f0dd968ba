"""Run LLM evaluations in pytest through the providers' batch APIs, at half the price."""
