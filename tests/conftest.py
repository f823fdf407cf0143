"""pytest's set-up for the script tests: the shared helpers on the path, and skip = exit code 77 for ctest."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))

import emoe_api  # noqa: E402
import emoe_tools  # noqa: E402


@pytest.fixture
def coordinator(tmp_path):
    """A coordinator with two slots that ends with the test, and whatever came from it."""
    with emoe_api.Coordinator(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_coordinator(tmp_path_factory):
    """One coordinator for the tests of a module that leave it as they found it."""
    with emoe_api.Coordinator(tmp_path_factory.mktemp("coordinator")) as running:
        yield running


def pytest_terminal_summary(terminalreporter):
    for text in emoe_tools.MEASURED:
        terminalreporter.write_line(text)


def pytest_sessionfinish(session, exitstatus):
    """Where every test was skipped, before it began or within, the whole is skipped, not passed."""
    reports = [report for reports in session.config.pluginmanager.get_plugin("terminalreporter").stats.values()
               for report in reports if getattr(report, "when", "") in ("call", "setup")]
    ran = any(report.when == "call" and not report.skipped for report in reports)
    if exitstatus == 0 and not ran and any(report.skipped for report in reports):
        session.exitstatus = emoe_tools.SKIPPED
