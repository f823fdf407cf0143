"""docs/OPERATIONS.md, "Backup and restore": its commands on a coordinator that works, and what is there afterwards."""
import hashlib
import json
import pathlib
import re
import shutil

import pytest

import emoe_tools as tools

PAGE = tools.ROOT / "docs" / "OPERATIONS.md"


def backup(state, copy):
    """The page's own command, with our folders."""
    command, = re.findall(r'^sqlite3 .*?"(.*?)"', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    if not shutil.which("sqlite3"):
        pytest.skip("sqlite3 is not installed (tools/setup/packages-test.txt)")
    tools.run(["sqlite3", state / "jobs.db", command.replace("/backup/jobs.db", str(copy))]).expect()


def backup_by_the_service(coordinator, copy):
    """emoectl backup, and what it says of the file."""
    made = json.loads(tools.run([tools.EMOECTL, "--server", coordinator.grpc_address, "-o", "json", "backup"]).expect().out)
    path = pathlib.Path(made["path"])
    assert path.parent == coordinator.state / "backups" and path.stat().st_size == int(made["bytes"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made["sha256"]
    tools.run(["sha256sum", "-c", path.name + ".sha256"], cwd=path.parent).expect()
    shutil.copy(path, copy)


def restore(state, copy):
    for file in state.glob("jobs.db*"):
        file.unlink()
    shutil.copy(copy, state / "jobs.db")


@pytest.mark.parametrize("way", ["emoectl", "sqlite3"])
def test_a_restored_database_knows_what_was_and_goes_on(coordinator, tmp_path, way):
    api = coordinator.api
    ended = api.create(tools.tiny_job(name="ended")).id
    api.succeed(ended)
    coordinator.holds.add("step-5")
    running = api.create(tools.tiny_job(name="running", train__max_steps=8)).id
    api.wait_for_step(running, 5)
    if way == "emoectl":
        backup_by_the_service(coordinator, tmp_path / "backup.db")
    else:
        backup(coordinator.state, tmp_path / "backup.db")
    coordinator.holds.release()
    exported = api.succeed(running).output_dir
    before = tools.exported_weights(exported)
    later = api.create(tools.tiny_job(name="later")).id
    api.succeed(later)

    assert coordinator.terminate() == 0
    restore(coordinator.state, tmp_path / "backup.db")
    coordinator.start()
    api = coordinator.api
    assert api.state(ended) == "SUCCEEDED"
    # It had ended meanwhile: it is found complete, or goes on from its last checkpoint, to the same result.
    again = api.succeed(running)
    assert again.output_dir == exported and tools.exported_weights(exported) == before
    assert {job.id for job in api.call("ListJobs").jobs} == {ended, running}, "what came after the backup is unknown"
