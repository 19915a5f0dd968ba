"""What is on disk: answers, jobs, submissions under way, and what is remembered between runs.

``store.Store`` is the one door. ``records`` are the typed documents, ``files`` makes them durable,
``index`` finds the newest answer to a key without reading bodies.

* In: missing calls, rows of results, answers of real time.
* Out: answers by key, jobs, requests.
* May import: the files at the top of the package only.
"""
