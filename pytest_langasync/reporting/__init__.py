"""What people read: the terminal, progress, JSON, Markdown and HTML. Strings are made here.

* In: the account of a run (``costs``), comparisons (``scoring``), events of jobs.
* Out: lines of text and documents; nothing here writes to a terminal by itself.
* May import: ``costs``, ``scoring``, and what lies below them.
"""
