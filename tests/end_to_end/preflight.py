"""emoectl preflight, task: preflight and resources.preflight, as people and scripts use them."""
import json

import emoe_tools as tools
from emoe_api import Coordinator

OF_ALL = {f"all-{what} {size}" for what in ("reduce", "gather") for size in ("8 B", "64 KiB", "1 MiB", "16 MiB")}
OF_EACH = {"device", "memory free", "/dev/shm free", "memlock limit", "open files limit", "version of emoe", "version of MPI",
           "clock difference"}
OF_HOST = {"output: write", "output: fsync"}


def checks(rows, rank):
    """What was looked at; NCCL only where the program was built with it."""
    return {row["check"] for row in rows if row.get("rank", 0) == rank} - {"version of NCCL"}


def assert_complete(rows):
    assert checks(rows, -1) == OF_ALL
    assert checks(rows, 0) == OF_EACH | OF_HOST and checks(rows, 1) == OF_EACH
    assert all(row["host"] and row["value"] and row["verdict"] in ("ok", "warn") for row in rows if row.get("rank", 0) >= 0), rows


def emoectl(service, *arguments):
    return tools.run([tools.EMOECTL, "--server", service.grpc_address, *arguments])


def test_without_a_coordinator(tmp_path):
    """The same checks by emoe-worker alone."""
    spec = {"task": "preflight", "parallel": {"ranks": 2}, "resources": {"device": "cpu"}}
    out = tools.run_job(tmp_path, spec, ranks=2)
    assert_complete(tools.read_json(out / "preflight.json"))


def test_with_one_for_people_and_scripts(coordinator):
    done = emoectl(coordinator, "-o", "json", "preflight").expect(0)  # all slots: two
    rows = json.loads(done.out)["rows"]
    assert_complete(rows)
    clock, = [row for row in rows if row["check"] == "clock difference" and row.get("rank", 0) == 1]
    assert "to the coordinator" in clock["value"] and clock["verdict"] == "ok"
    table = emoectl(coordinator, "preflight", "--ranks", "1", "--device", "cpu").expect(0).out
    assert "RANK" in table and "open files limit" in table and "all-reduce" not in table
    assert "parallel.ranks is 3" in emoectl(coordinator, "preflight", "--ranks", "3").text  # refused: there are two slots


class FewFiles(Coordinator):
    """Whatever it starts may open too few files."""

    def command(self, *arguments):
        return ["prlimit", "--nofile=250:250", *super().command(*arguments)]


def test_what_is_bad_ends_an_attempt_by_its_name(tmp_path):
    with FewFiles(tmp_path) as service:
        done = emoectl(service, "preflight", "--ranks", "1").expect(1)
        line, = [line for line in done.out.splitlines() if "open files limit" in line]
        assert "bad" in line and "250; raise the limit: ulimit -n" in line, line
        api = service.api
        job = api.wait(api.create(tools.tiny_job(resources__preflight=True, resources__max_attempts=2)).id)
        assert api.state_name(job.state) == "FAILED"
        assert [api.reason_name(a.reason) for a in job.attempts] == ["REASON_PREFLIGHT"] * 2
        assert "open files limit" in job.message and "ulimit -n" in job.message, job.message
        assert not job.HasField("eval_last") and job.progress.step == 0
        api.succeed(api.create(tools.tiny_job()).id)  # who does not ask is not held up
