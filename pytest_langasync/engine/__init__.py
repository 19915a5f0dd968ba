"""One run: what its attempts ask, what is stored, what is bought, and in what order it goes on.

``run.Run`` owns the only store, ledger, budget and memory of a run. A *front* (the pytest session,
a chain's job) opens attempts, hands over what they miss, and opens attempts again.

* In: HTTP calls that ``interception`` caught (``router``), attempts of fronts (``replay``).
* Out: answers to calls; missing calls to ``lanes``; reasons and differences in words.
* May import: ``lanes``, ``costs``, ``providers``, ``cache``, ``interception``. It starts the
  ``sandbox``.
"""
