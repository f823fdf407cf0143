"""Checkpoints exported while the training goes on, and after it, with the coordinator killed -9 meanwhile."""
import pathlib

import pytest
from safetensors.numpy import load_file

import emoe_tools as tools
from emoe_api import ApiError, Coordinator
from fault_support import assert_same_result, hurt_job, undisturbed_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))


def test_a_checkpoint_is_exported_beside_the_training(tmp_path, undisturbed):
    with Coordinator(tmp_path, slots=3) as coordinator:
        api = coordinator.api
        coordinator.holds.add("step-25")
        trained = api.create(hurt_job())
        api.wait_for_step(trained.id, 25)
        assert tools.valid_checkpoints(trained.output_dir) == [10, 20]
        asked = api.call("ExportCheckpoint", id=trained.id, step=10, request_id="e")
        assert (asked.export_of.job_id, asked.export_of.step) == (trained.id, 10)
        coordinator.kill()  # the job is stored
        coordinator.start()
        api = coordinator.api
        assert api.call("ExportCheckpoint", id=trained.id, step=10, request_id="e") == asked, "the first answer"
        exported = api.succeed(asked.id)
        assert exported.merge.verified and api.state(trained.id) == "RUNNING", "it was not disturbed"
        out = pathlib.Path(exported.output_dir)
        assert out == pathlib.Path(trained.output_dir) / "exports" / "step_00000010"
        # The adapter is the checkpoint's, bit for bit.
        saved = load_file(pathlib.Path(trained.output_dir) / "checkpoints" / "step_00000010" / "adapter.safetensors")
        written = load_file(out / "export" / "adapter" / "adapter_model.safetensors")
        assert saved.keys() == written.keys()
        assert all((saved[name] == written[name]).all() for name in saved)
        late = api.call("ExportCheckpoint", id=trained.id, step=20)
        coordinator.holds.release("step-25")  # which removes the checkpoint when it goes on
        job = api.succeed(trained.id)
        assert_same_result(api, job, undisturbed)
        assert api.succeed(late.id).merge.verified
        with pytest.raises(ApiError) as refused:
            api.call("ExportCheckpoint", id=trained.id, step=10)
        assert refused.value.reason == "NO_SUCH_CHECKPOINT", str(refused.value)
        tools.wait_until(lambda: not list(pathlib.Path(trained.output_dir).glob("exports/.step_*")), 30, "no links that nobody needs")
        newest = api.succeed(api.call("ExportCheckpoint", id=trained.id).id)
        assert tools.exported_weights(newest.output_dir) == tools.exported_weights(job.output_dir), "that of the end"


def test_an_export_waits_for_its_slot_and_needs_no_training(tmp_path):
    with Coordinator(tmp_path, slots=1) as coordinator:
        api = coordinator.api
        trained = api.succeed(api.create(tools.tiny_job(checkpoint__every_steps=2)).id)
        coordinator.holds.add("step-1")
        busy = api.create(tools.tiny_job(name="busy")).id
        api.wait_for_step(busy, 1)
        asked = api.call("ExportCheckpoint", id=trained.id, step=2)
        assert api.state(asked.id) == "QUEUED"
        assert api.call("ExportCheckpoint", id=trained.id, step=2).id == asked.id, "one is under way"
        coordinator.holds.release()
        assert api.succeed(asked.id).merge.verified
