"""How missing calls get their answers: through a provider's batch job, or sent at once.

* In: missing calls, with the account, host and options that they came with.
* Out: answers in the cache; events for whoever waits.
* May import: ``providers``, ``cache``, and what lies below them.
"""
