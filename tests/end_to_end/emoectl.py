"""emoectl as a person and as a script use it."""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import struct
import subprocess
import tarfile
import termios

import pytest
import yaml

import emoe_tools as tools


class Cli:
    def __init__(self, coordinator):
        self.coordinator = coordinator

    def command(self, *arguments):
        return [str(part) for part in (tools.EMOECTL, "--server", self.coordinator.grpc_address, *arguments)]

    def __call__(self, *arguments, code=0, **options):
        return tools.run(self.command(*arguments), **options).expect(code)

    def json(self, *arguments):
        return json.loads(self("-o", "json", *arguments).out)


def on_a_terminal(command, columns=80):
    """Exit code and what was shown on a terminal so wide (its "\\r\\n" as "\\n")."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
                               env=tools.environment({"TERM": "xterm"}))
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal closes when the last process leaves it
        while chunk := os.read(leader, 4096):
            seen += chunk
    os.close(leader)
    return process.wait(60), seen.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def cli(shared_coordinator):
    return Cli(shared_coordinator)


@pytest.fixture(scope="module")
def finished(cli, tmp_path_factory):
    """Id of a job that was submitted from a file with relative paths and waited for."""
    folder = tmp_path_factory.mktemp("submit")
    (folder / "model").symlink_to(tools.TINY)
    (folder / "rows.json").symlink_to(tools.FIXTURES / "rows.json")
    job = tools.write_yaml(folder / "job.yaml", tools.tiny_job(
        name="from-a-file", model__path="model", data__train="rows.json", data__eval="rows.json", parallel__ranks=2,
        checkpoint__every_steps=2, labels={"team": "cli"}))
    done = cli("-o", "json", "submit", job, "--set", "train.max_steps=3", "--request-id", "cli-1", "--wait",
               cwd=folder)  # relative paths are those of the shell
    return json.loads(done.out)["id"]


@pytest.fixture(scope="module")
def failed(cli, tmp_path_factory):
    """Id of a job whose loss overflowed; --wait exited with the code its worker exited with."""
    spec = tools.tiny_job(name="to-fail", tuning="full", lora=None, optimizer__learning_rate=1e30,
                          optimizer__max_grad_norm=0, train__max_steps=20)
    done = cli("submit", tools.write_yaml(tmp_path_factory.mktemp("failed") / "job.yaml", spec), "--wait",
               code=tools.NON_FINITE)
    assert "step" in done.text, done.text
    return next(job["id"] for job in cli.json("list")["jobs"] if job["name"] == "to-fail")


def test_submit_wait_and_get(cli, finished):
    job = cli.json("get", finished)
    assert job["state"] == "SUCCEEDED" and job["name"] == "from-a-file"
    assert int(job["progress"]["steps_planned"]) == 3, "--set went into the job"
    assert job["merge"]["verified"] is True
    table = cli("get", finished).out
    for word in (finished, "SUCCEEDED", "from-a-file", job["output_dir"]):
        assert word in table, table
    assert yaml.safe_load(cli("-o", "yaml", "get", finished).out)["id"] == finished


def test_a_job_by_its_name_or_the_beginning_of_its_id(cli, finished):
    assert cli.json("get", "from-a-file")["id"] == finished == cli.json("get", finished[:-2])["id"]
    assert "JOB_NOT_FOUND" in cli("logs", "no-such-job", code=1).err


def test_paths_lead_where_the_worker_finds_them(cli, tmp_path):
    """Behind a symbolic link ".." is another folder than the text says."""
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    (tmp_path / "deep" / "model").symlink_to(tools.TINY)
    (tmp_path / "link").symlink_to("deep/folder")
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(model__path="link/../model", train__max_steps=1))
    cli("submit", job, "--validate-only", cwd=tmp_path)
    tools.worker("run", job, "--out", "link/../out", cwd=tmp_path).expect()
    assert (tmp_path / "deep" / "out" / "job.yaml").exists() and not (tmp_path / "out").exists()


def test_several_files_are_one_call(cli, tmp_path):
    files = [tools.write_yaml(tmp_path / f"{name}.yaml", tools.tiny_job(name=name, train__max_steps=1)) for name in ("a", "b")]
    made = cli.json("submit", *files, "--request-id", "both")["jobs"]
    assert [job["name"] for job in made] == ["a", "b"]
    assert cli.json("submit", *files, "--request-id", "both")["jobs"] == made, "the first answer again"
    bad = tools.write_yaml(tmp_path / "bad.yaml", tools.tiny_job(name="bad", optimizer__learning_rate=-1))
    before = {job["id"] for job in cli.json("list", "--limit", 0)["jobs"]}
    done = cli("submit", files[0], bad, code=tools.USAGE)
    assert "bad.yaml:" in done.err and "learning_rate" in done.err, done.text
    assert {job["id"] for job in cli.json("list", "--limit", 0)["jobs"]} == before, "none of them is stored"


def test_backup(cli):
    made = cli.json("backup")
    assert len(made["sha256"]) == 64 and int(made["bytes"]) > 0
    assert cli("backup").out.splitlines()[0].endswith(".db")


def test_tables_fit_a_terminal(cli, finished):
    for arguments in (["list"], ["metrics", finished]):
        code, text = on_a_terminal(cli.command(*arguments))
        assert code == 0 and len(text.splitlines()) > 1, text
        assert max(map(len, text.splitlines())) <= 80, text
    assert "from-a-file" in on_a_terminal(cli.command("list"))[1]


def test_paths_and_messages_are_whole_on_a_terminal(cli, finished, failed):
    job = cli.json("get", finished)
    code, text = on_a_terminal(cli.command("get", finished), columns=60)
    assert code == 0 and "…" not in text, text
    for path in (job["output_dir"], job["merge"]["model_dir"], job["merge"]["adapter_dir"]):
        assert f" {path}\n" in text, text
    for checkpoint in cli.json("checkpoints", finished)["checkpoints"]:
        assert f" {checkpoint['path']}\n" in on_a_terminal(cli.command("checkpoints", finished), columns=60)[1]
    message = cli.json("get", failed)["message"]
    assert len(message) > 40, "long enough to be cut"
    code, text = on_a_terminal(cli.command("get", failed), columns=60)
    assert " ".join(message.split()) in " ".join(text.split()), text
    code, text = on_a_terminal(cli.command("watch", failed), columns=60)
    assert code == tools.NON_FINITE and message in text, text


def test_nothing_but_text_into_a_pipe(cli, finished, failed):
    for arguments in (["list"], ["get", finished], ["get", failed], ["metrics", finished], ["checkpoints", finished]):
        out = cli(*arguments).out
        assert "\x1b" not in out and "…" not in out, out


def test_list_and_filters(cli, finished):
    names = [j["id"] for j in cli.json("list")["jobs"]]
    assert finished in names
    assert finished in cli("list").out


def test_metrics_and_checkpoints(cli, finished):
    steps = cli.json("metrics", finished)["steps"]
    assert [int(s["step"]) for s in steps] == [0, 1, 2] and all(s["loss"] > 0 for s in steps)
    assert [int(c["step"]) for c in cli.json("checkpoints", finished)["checkpoints"]][-1] == 2


def test_watch_a_finished_job(cli, finished):
    done = cli("watch", finished)
    assert "SUCCEEDED" in done.text
    assert "\r" not in done.text, "no progress bar into a pipe"


def test_logs(cli, finished):
    out = cli("logs", finished).out
    assert "[0] " in out, f"what rank 0 printed is marked so:\n{out}"
    assert on_a_terminal(cli.command("logs", finished))[1] == out
    assert len(cli("logs", finished, "--bytes", "40").out) < len(out)
    assert cli.json("logs", finished)["text"] == out


def test_info(cli):
    info = cli.json("info")
    assert info["api_version"] == "emoe.v1" and int(info["slots_total"]) == 2


def test_cancel_from_another_terminal(cli, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(name="to-cancel", train__max_steps=100000))
    waiting = subprocess.Popen(cli.command("submit", job, "--wait"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, env=tools.environment())
    found = tools.wait_until(lambda: [j["id"] for j in cli.json("list")["jobs"]
                                      if j["name"] == "to-cancel" and j["state"] == "RUNNING"], 60, "the job running")
    cli("cancel", found[0])
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode not in (0, None) and "CANCELLED" in out, out
    assert cli.json("get", found[0])["state"] == "CANCELLED"


def test_a_client_killed_while_watching_harms_nobody(cli, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(name="watched", train__max_steps=400))
    with subprocess.Popen(cli.command("submit", job, "--wait"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True, env=tools.environment()) as watcher:
        assert any("RUNNING" in line for line in watcher.stderr), "it watches"
        watcher.kill()
    mine = lambda: next(j for j in cli.json("list")["jobs"] if j["name"] == "watched")
    assert tools.wait_until(lambda: mine()["state"] == "SUCCEEDED", 120, "the job done without its watcher")
    assert cli.coordinator.api.healthy()


def test_progress_bar_on_a_terminal(cli, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(train__max_steps=60))
    code, text = on_a_terminal(cli.command("submit", job, "--wait"))
    assert code == 0, text
    drawn = [part.split("\x1b[K")[0] for part in text.split("\r")[1:]]
    assert any("/60  " in part for part in drawn), text
    assert all(len(part.splitlines()[0]) < 80 for part in drawn if "/60  " in part), text


# ---------------------------------------------------------------- errors
def test_a_bad_job_file_shows_lines_and_stores_nothing(cli, tmp_path):
    before = len(cli.json("list")["jobs"])
    job = tmp_path / "job.yaml"
    text = yaml.safe_dump(tools.tiny_job(optimizer__learning_rate=-1.0, emoe={"experts": 7, "top_k": 2, "layers": {"list": [0]}}), sort_keys=False)
    job.write_text(text)
    done = cli("submit", job, code=tools.USAGE)
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "learning_rate" in row)
    assert f"job.yaml:{line}" in done.err and "emoe.experts" in done.err and "48" in done.err, done.err
    assert len(cli.json("list")["jobs"]) == before


def test_unknown_job_and_unknown_server(cli):
    done = cli("get", "no-such-job", code=1)
    assert "no-such-job" in done.err and "JOB_NOT_FOUND" in done.err, done.err
    error = json.loads(cli("-o", "json", "get", "no-such-job", code=1).err)
    assert error["code"] == 5 and error["details"][0]["reason"] == "JOB_NOT_FOUND", error
    nobody = tools.run([tools.EMOECTL, "--server", "127.0.0.1:1", "list"])
    assert nobody.code == 69 and "127.0.0.1:1" in nobody.err, f"{nobody.code}: {nobody.err}"


def test_an_ended_job_is_neither_paused_nor_resumed(cli, finished):
    for command in ("pause", "resume"):
        done = tools.run(cli.command(command, finished))
        assert done.code == 1 and "(WRONG_STATE)" in done.err, f"{done.code}: {done.err}"


def test_a_plan_stands_beside_what_was_measured(cli, finished, tmp_path):
    planned = cli("plan", tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job()))
    for word in ("memory:", "micro-batch:", "work:", "time:", "disk:", "queue:", "activations", "optimiser"):
        assert word in planned.out, planned.out
    shown = cli("get", finished).out
    assert "PLAN AND MEASURED" in shown and "memory of a rank" in shown, shown


def test_resubmit_is_the_job_as_given_with_changes(cli, finished):
    given = cli.json("get", finished)
    done = cli("resubmit", finished, "--set", "train.max_steps=2", "--set", "name=again", "--wait")
    assert "SUCCEEDED" in done.out, done.out
    again = next(job for job in cli.json("list")["jobs"] if job["name"] == "again")
    again = cli.json("get", again["id"])
    assert again["spec"] == {**given["spec"], "name": "again", "train": {**given["spec"]["train"], "max_steps": 2}}
    assert again["output_dir"] != given["output_dir"] and again["progress"]["steps_planned"] == 2
    done = cli("resubmit", finished, "--set", "train.max_steeps=2", code=tools.USAGE)
    assert "train.max_steeps" in done.err and "max_steps" in done.err, done.err


def test_an_export_is_resubmitted_as_an_export(cli, finished):
    exported = cli.json("export", finished)
    cli.coordinator.api.succeed(exported["id"])
    done = cli("resubmit", exported["id"], "--set", "train.max_steps=2", code=tools.USAGE)
    assert f"resubmit {finished}" in done.err, done.err
    again = cli.json("resubmit", exported["id"])
    assert again["id"] != exported["id"] and again["export_of"]["step"] == exported["export_of"]["step"], again
    refused = cli("delete", finished, "--outputs", code=1)
    assert again["id"] in refused.err and "WRONG_STATE" in refused.err, refused.err
    assert cli.json("get", again["id"])["plan"]["disk"]["export_bytes"], "an export's plan has its disk"
    assert cli.coordinator.api.succeed(again["id"]).merge.verified


def test_a_job_of_another_task_ends_no_coordinator(cli, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job())
    for command in ("plan", "submit"):
        for change in ("task=convert", "task=merge", "task=preflight", "data.template=lama2"):
            done = tools.run(cli.command(command, job, "--set", change))
            assert done.code == tools.USAGE and "(INVALID_SPEC)" in done.err, f"{done.code}: {done.err}"
    assert "emoe.v1" in cli("info").out


def test_bundle_has_what_a_reviewer_needs_and_no_weights(cli, finished, tmp_path):
    path = tmp_path / "run.tar.gz"
    assert cli("bundle", finished, "--out", path).out.strip() == str(path)
    with tarfile.open(path) as archive:
        files = {member.name.split("/", 1)[1]: archive.extractfile(member).read() for member in archive}
    job = cli.json("get", finished)
    assert json.loads(files["job.json"])["id"] == job["id"]
    assert yaml.safe_load(files["resolved.yaml"])["train"]["global_batch"] == 8
    out = pathlib.Path(job["output_dir"])
    for name in ("job.yaml", "metrics.jsonl", "data_report.json", "warnings.json", "export/merge_report.json"):
        assert files[f"output/{name}"] == (out / name).read_bytes(), name
    assert "hashes" in yaml.safe_load(files["output/job.yaml"])
    assert len(json.loads(files["metrics.json"])["steps"]) == len(tools.read_lines(out / "metrics.jsonl"))
    assert json.loads(files["server.json"])["version"]
    assert not [name for name in files if name.endswith((".safetensors", ".model"))]
    assert sum(map(len, files.values())) < 1 << 20
    # A place that cannot be written: a sentence, and nothing is left.
    failed = cli("bundle", finished, "--out", tmp_path / "no" / "where.tar.gz", code=1)
    assert "No such file" in failed.err, failed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.tar.gz"]


def test_usage(cli):
    tools.run([tools.EMOECTL]).expect(tools.USAGE)
    tools.run([tools.EMOECTL, "fly"]).expect(tools.USAGE)
    assert "submit" in tools.run([tools.EMOECTL, "--help"]).expect().out


def test_server_from_the_environment(cli):
    done = tools.run([tools.EMOECTL, "info"], env={"EMOE_SERVER": cli.coordinator.grpc_address}).expect()
    assert "emoe.v1" in done.out


def test_delete(cli, tmp_path):
    job = tools.write_yaml(tmp_path / "job.yaml", tools.tiny_job(name="to-delete", train__max_steps=1))
    cli("submit", job, "--wait")
    job = next(job for job in cli.json("list")["jobs"] if job["name"] == "to-delete")
    cli("delete", job["id"], "--outputs")
    cli("get", job["id"], code=1)
    assert not os.path.exists(job["output_dir"])
