"""Whose call is it, and how it is caught: HTTP clients, threads, tasks, and tracing libraries.

Everything that patches somebody else's code lives here, and nowhere else.

* In: the HTTP calls of SDKs.
* Out: genuine responses of the caller's own library, or the exception that parks the caller.
* May import: the files at the top of the package only.
"""
