"""deploy/systemd: the unit is one that systemd takes, it is closed as far as the programs allow, and a stop as systemd makes it
loses no step."""
import configparser
import os
import pathlib
import shutil
import signal

import pytest

import emoe_tools as tools

UNIT = tools.ROOT / "deploy" / "systemd" / "emoe-coordinator.service"


class Unit(configparser.RawConfigParser):
    """A unit file; a key that is there several times has its values one below the other."""

    def __init__(self):
        super().__init__(strict=False, delimiters="=", comment_prefixes="#", dict_type=Unit.Keys)
        self.optionxform = str
        self.read(UNIT, encoding="utf-8")

    class Keys(dict):
        def __setitem__(self, key, value):
            if isinstance(value, list) and isinstance(self.get(key), list):
                self[key].extend(value)
            else:
                super().__setitem__(key, value)


@pytest.fixture
def unit_with_our_programs(tmp_path):
    """A copy that starts the programs of this build, so that all it names is there."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/emoe/bin", str(tools.BIN))
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    return copy


def test_systemd_takes_the_unit(unit_with_our_programs):
    checked = tools.run(["systemd-analyze", "verify", "--man=no", unit_with_our_programs]).expect()
    assert checked.text == "", "an unknown key is a warning"


def test_the_unit_is_closed(unit_with_our_programs):
    tools.run(["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unit_with_our_programs]).expect()


def test_the_command_line_is_one_of_the_coordinator():
    command = Unit()["Service"]["ExecStart"].split()
    options = tools.run([tools.COORDINATOR, "--help"]).expect().out
    assert pathlib.Path(command[0]).name == tools.COORDINATOR.name
    assert all(option in options for option in command if option.startswith("--"))


def test_a_stop_lets_the_ranks_checkpoint(coordinator):
    """SIGTERM to every process of the control group, and once more to those that are left when the main process has ended:
    KillMode=control-group. What then still runs after TimeoutStopSec would be killed."""
    assert Unit()["Service"]["KillMode"] == "control-group" and Unit()["Service"]["TimeoutStopSec"] == "10min"
    api = coordinator.api
    coordinator.holds.add("step-5")
    job_id = api.create(tools.tiny_job(train__max_steps=12, parallel__ranks=2, resources__max_attempts=1)).id
    api.wait_for_step(job_id, 5)

    def stop_all(pids):
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    stop_all(coordinator.processes())
    assert coordinator.terminate() == 0
    stop_all(coordinator.processes())
    coordinator.holds.release()
    tools.assert_no_process(coordinator.marker)

    coordinator.start()
    job = coordinator.api.succeed(job_id)
    stopped, resumed = job.attempts
    assert coordinator.api.reason_name(stopped.reason) == "REASON_PREEMPTED" and not stopped.counted
    assert resumed.resumed_from_step in (5, 6), "at the next step's edge"
