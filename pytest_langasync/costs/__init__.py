"""What calls cost: prices per provider and model, and the account of a run.

* In: usage that answers report, requests to be estimated.
* Out: money in USD; what is not known is None.
* May import: ``providers``, ``cache``, and what lies below them.
"""
