"""Sessions for development and CI. `nox --list` shows them; plain `nox` runs them all."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "uv|venv"

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def wheel(session: nox.Session) -> str:
    """Return the wheel to test, as a requirement: what is shipped, not the source tree.

    CI builds it once and gives its path as the first argument.
    """
    if session.posargs and session.posargs[0].endswith(".whl"):
        built = Path(session.posargs.pop(0))
    else:
        folder = Path(session.create_tmp())
        for old in folder.glob("*.whl"):
            old.unlink()
        session.install("build")
        session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), silent=True)
        (built,) = folder.glob("*.whl")
    return f"pytest-langasync[{{}}] @ {built.resolve().as_uri()}"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Tests and examples on the built wheel with the newest dependencies."""
    session.install(wheel(session).format("test"))
    session.run("pytest", "tests", "-n", "auto", *session.posargs)
    session.run("pytest", "examples", "--langasync-sandbox")


@nox.session(python="3.11", venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Tests on the built wheel with the lowest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", wheel(session).format("test-lowest"))
    session.run("pytest", "tests", "-n", "auto", *session.posargs)


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


@nox.session(python="3.11")
def coverage(session: nox.Session) -> None:
    """Branch coverage of the quick tests, their processes included."""
    session.install("-e", ".[test]")
    data = str(Path(session.create_tmp()).resolve() / "coverage")
    measured = {"COVERAGE_PROCESS_START": str(Path("pyproject.toml").resolve())}
    session.run("pytest", "tests", "-n", "auto", env=measured | {"COVERAGE_FILE": data})
    session.run("coverage", "combine", "--quiet", env={"COVERAGE_FILE": data})
    session.run("coverage", "report", "--fail-under=95", env={"COVERAGE_FILE": data})


@nox.session(python="3.11")
def exhaustive(session: nox.Session) -> None:
    """Every kill, every fault at every call, every full disk."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests", "-n", "auto", "-m", "exhaustive", *session.posargs)
