"""pytest, and nothing else knows pytest. This module holds the hooks of every run.

``session`` runs attempts of marked tests and ``waves`` runs parked ones again; both are registered
only while batch mode is on. ``scores`` serves the fixtures ``langasync`` and ``scored`` in every
run. Nothing here imports an SDK or an HTTP library: with the flag absent the plugin costs nothing.

* In: pytest's hooks, options and marks.
* Out: verdicts and reports; attempts for ``engine``.
* May import: every other room but ``cli``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_langasync.config import OPTIONS, PREFIX, Settings, settings_from
from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.plugin import hookspecs

if TYPE_CHECKING:
    from pytest_langasync.plugin.scores import Langasync, Scored
    from pytest_langasync.scoring.cases import Case

SETTINGS_KEY = pytest.StashKey[Settings]()
PLACEHOLDERS_KEY = pytest.StashKey[list[str]]()
MISTAKES_KEY = pytest.StashKey[list[str]]()

MARKER = (
    "langasync(priority='normal', realtime=False, lane=None, max_retries=None, chain=None, "
    "inputs=None, scorer=None, repeats=1, min_pass_rate=1.0): run this LLM evaluation "
    "through the provider's batch API when --langasync-batch is given"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    group = parser.getgroup("langasync", "LLM evaluations at batch price (pytest-langasync)")
    for option in OPTIONS:
        if option.cli and option.metavar:
            group.addoption(
                option.flag, dest=PREFIX + option.name, metavar=option.metavar, help=option.help
            )
        elif option.cli:
            group.addoption(
                option.flag, dest=PREFIX + option.name, action="store_true", help=option.help
            )
        if option.ini:
            parser.addini(PREFIX + option.name, option.help, type="string", default="")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register our hook specifications."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set placeholder keys where no key is needed: a conftest may make its clients on import."""
    given = vars(early_config.known_args_namespace)
    if any(given.get(PREFIX + name) for name in ("estimate", "offline", "sandbox", "sandbox_url")):
        from pytest_langasync.providers import set_placeholder_keys

        early_config.stash[PLACEHOLDERS_KEY] = set_placeholder_keys()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the placeholder keys back."""
    for variable in config.stash.get(PLACEHOLDERS_KEY, ()):
        os.environ.pop(variable, None)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; register the session and its reporter when batch mode is on."""
    config.addinivalue_line("markers", MARKER)
    cli = {PREFIX + o.name: config.getoption(PREFIX + o.name) for o in OPTIONS if o.cli}
    try:
        settings = settings_from(config.rootpath, cli, config.getini)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SETTINGS_KEY] = settings
    config.stash[MISTAKES_KEY] = []
    distributed = getattr(config.option, "dist", "no") != "no" and not hasattr(
        config, "workerinput"
    )
    if distributed:  # it will see reports, but no tests
        _score(config)
    if not settings.active or config.getoption("help", False):
        return
    from pytest_langasync.plugin.terminal import Reporter

    invitation = None
    worker = hasattr(config, "workerinput")
    if worker:
        from pytest_langasync.plugin.xdist_messages import WORKERINPUT, Invitation

        invitation = Invitation.model_validate(vars(config)["workerinput"][WORKERINPUT])
    reporter = Reporter(config, settings, invitation.started_at if invitation else None)
    if config.option.collectonly:
        config.pluginmanager.register(reporter, "langasync-reporter")
        return
    session: ControllerSession | Session
    if distributed:
        from pytest_langasync.plugin.xdist_controller import ControllerSession

        session, name = ControllerSession(config, settings, reporter), "langasync-distribution"
    else:
        from pytest_langasync.plugin.session import LeaveOut, Session

        session, name = Session(config, settings, reporter, invitation), "langasync-session"
        config.pluginmanager.register(LeaveOut(session), "langasync-leave-out")
    if not worker:
        from pytest_langasync.plugin.run_record import RunRecorder

        record = RunRecorder(config, session.run, reporter)
        config.pluginmanager.register(record, "langasync-record")
    config.pluginmanager.register(reporter, "langasync-reporter")
    config.pluginmanager.register(session, name)


def _score(config: pytest.Config) -> None:
    """Register what adds scores up."""
    if not config.pluginmanager.has_plugin("langasync-evals"):
        from pytest_langasync.plugin.scores import Scores

        config.pluginmanager.register(Scores(config, config.stash[SETTINGS_KEY]), "langasync-evals")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each case of a marked function, and for each repeat."""
    marks = list(metafunc.definition.iter_markers("langasync"))
    if marks or "langasync_case" in metafunc.fixturenames:
        from pytest_langasync.plugin.marker import MarkerOptions
        from pytest_langasync.plugin.scores import generate

        try:
            generate(metafunc, MarkerOptions.merged(marks))
        except ConfigurationError as error:
            where = f"{metafunc.definition.nodeid}: @pytest.mark.langasync"
            metafunc.config.stash[MISTAKES_KEY].append(f"{where} {error}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the marker's keywords on every run, so that a nightly job is not the first to tell."""
    mistakes: list[str] = config.stash[MISTAKES_KEY]
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))
    everything = config.stash[SETTINGS_KEY].all
    marked = [i for i in items if everything or i.get_closest_marker("langasync") is not None]
    for item in marked:
        _mark(item)
    if marked:
        _score(config)


def _mark(item: pytest.Item) -> None:
    """Note on a test what its marker says."""
    from pytest_langasync.plugin.marker import MarkerOptions
    from pytest_langasync.plugin.other_plugins import realtime_because
    from pytest_langasync.plugin.scores import EVAL_KEY

    try:
        options = MarkerOptions.merged(item.iter_markers("langasync"))
        params = getattr(getattr(item, "callspec", None), "params", {})
        if options.repeats > 1 and "langasync_repeat" not in params:
            raise ConfigurationError("repeats=… is for test functions, not for unittest's methods")
    except ConfigurationError as error:
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.langasync {error}") from None
    if realtime_because(item):
        options = replace(options, realtime=True)
    item.stash[EVAL_KEY] = options
    if item.config.stash[SETTINGS_KEY].active:
        from pytest_langasync.plugin.session import OPTIONS_KEY

        item.stash[OPTIONS_KEY] = options


@pytest.fixture
def langasync(request: pytest.FixtureRequest) -> Langasync:
    """The test's own view of its run: ``attempt``, ``score(…)``, ``calls``, ``cost``."""
    from pytest_langasync.plugin.scores import open_record

    return open_record(request)


@pytest.fixture
def langasync_repeat(request: pytest.FixtureRequest) -> int:
    """Which of its repeats this test is, from 0."""
    return int(getattr(request, "param", 0))


@pytest.fixture
def langasync_case(request: pytest.FixtureRequest) -> Case:
    """The case of a declarative evaluation."""
    case: Case = request.param
    return case


@pytest.fixture
def scored(request: pytest.FixtureRequest, langasync: Langasync, langasync_case: Case) -> Scored:
    """One case, run through the marker's ``chain`` and scored by its ``scorer``."""
    __tracebackhide__ = True
    from pytest_langasync.plugin.scores import run_case

    return run_case(request, langasync, langasync_case)
