"""Sessions for development and CI. `nox --list` shows them; plain `nox` runs them all."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"

PYTHONS = ["3.11", "3.12", "3.13"]
LOWEST = ".ci/lowest.txt"


def install_wheel(session: nox.Session, *extras: str) -> None:
    """Build the wheel and install it with ``extras``: tests then run against what is shipped."""
    session.install("build")
    target = Path(session.create_tmp())
    for old in target.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "build", "--wheel", "--outdir", str(target), silent=True)
    (wheel,) = target.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"pytest-langasync[{','.join(extras)}] @ {wheel.resolve().as_uri()}")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Tests and examples on the built wheel with the newest dependencies."""
    install_wheel(session, "test")
    session.run("pytest", *session.posargs)
    session.run("pytest", "examples", "--langasync-sandbox")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Tests on the built wheel with the lowest declared versions; LangChain needs newer ones."""
    session.install("-r", LOWEST)
    install_wheel(session, "sandbox")
    session.install("-r", LOWEST)
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Lint and format."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Static types, strict."""
    session.install("-e", ".[test,lint]")
    session.run("mypy")
