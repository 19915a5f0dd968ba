"""Batch jobs of LangChain Runnables and plain functions, without pytest.

``chain.wrap_chain`` makes a ``WrappedChain``, whose jobs are ``job.BatchJob``; ``passes`` runs the
inputs again and again, ``runner`` runs one of them as an attempt.

* May import: ``engine``, ``reporting``, and what lies below them.
"""
