"""task: convert: experts with a report of how good they are, used by a training; a model in their order, and back."""
import pathlib
import shutil

import pytest

import emoe_tools as tools
from emoe_api import ApiError


def convert_job(**changes):
    spec = {"task": "convert", "model": {"path": str(tools.TINY)},
            "emoe": {"experts": 8, "layers": {"list": [0, 2]}, "partition": {"method": "kmeans", "restarts": 2}}}
    return tools.changed(spec, **changes)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_experts_for_a_training(tmp_path):
    out = tools.run_job(tmp_path, convert_job())
    left = {path.name for path in out.iterdir()}
    assert left == {".lock", "cache", "job.yaml", "warnings.json", "partition", "partition_report.json"}, left
    report = tools.read_json(out / "partition_report.json")
    assert [layer["layer"] for layer in report["layers"]] == [0, 2]
    for layer in report["layers"]:
        stored = tools.read_json(out / "partition" / f"layer_{layer['layer']:02d}.json")
        assert stored["inertia"] == layer["inertia"] and layer["neurons_per_expert"] == 6
        assert layer["inertia_unconstrained"] <= layer["inertia"] < layer["inertia_random"], layer
        assert 0 < layer["share_of_gain"] <= 1 and layer["seconds"] >= 0
        sizes = layer["unconstrained_sizes"]
        assert 0 <= sizes["smallest"] <= 6 <= sizes["largest"]
    # A training takes them, and makes the same itself.
    emoe = {**tools.TINY_EMOE, "partition": {"method": "file", "path": str(out / "partition")}}
    ours = tools.run_job(tmp_path / "file", tools.tiny_job(emoe=emoe))
    own = tools.run_job(tmp_path / "own", tools.tiny_job(emoe=tools.TINY_EMOE))
    assert tools.exported_weights(ours) == tools.exported_weights(own)
    # From the cache the second time.
    shared = tmp_path / "cache"
    for name in ("first", "second"):
        tools.run_job(tmp_path / name, convert_job(), env={"EMOE_CACHE_DIR": str(shared)})
    assert len(list(shared.glob("partition-*.json"))) == 2


@pytest.mark.parametrize("method", ["kmeans", "random"])
def test_a_model_in_the_order_of_its_experts_and_back(tmp_path, method):
    from safetensors.numpy import load_file
    base = shutil.copytree(tools.TINY, tmp_path / "base")
    (base / "README.md").write_text("a model\n")
    spec = convert_job(model__path=str(base), emoe__partition={"method": method}, export={"original_order": False})
    out = tools.run_job(tmp_path / "there", spec)
    there = out / "export" / "model"
    report = tools.read_json(out / "export" / "merge_report.json")
    assert report["verified"] and report["tensors_reordered"] == 6 and report["tensors_changed"] == 0, report
    labels = tools.read_json(out / "partition" / "layer_02.json")["labels"]
    order = sorted(range(48), key=lambda neuron: labels[neuron])
    before, after = (load_file(folder / "model.safetensors") for folder in (base, there))
    for name, tensor in before.items():
        moved = name.startswith("model.layers.2.mlp.")
        expected = tensor[:, order] if moved and "down" in name else tensor[order] if moved else tensor
        if ".layers.0.mlp." not in name:
            assert (after[name] == expected).all(), name
    # Its experts lie side by side: contiguous ones are they.
    tokens = tools.write_json(tmp_path / "tokens.json", list(range(3, 60)))
    logits = []
    for folder, partition in ((base, {"method": "file", "path": str(out / "partition")}), (there, {"method": "contiguous"})):
        emoe = {**tools.TINY_EMOE, "partition": partition}
        job = tools.write_yaml(tmp_path / "emoe.yaml", {"model": {"dtype": "float32"}, "emoe": emoe})
        tensors = tmp_path / "logits.safetensors"
        tools.worker("logits", "--model", folder, "--emoe", job, "--tokens", tokens, "--out", tensors).expect()
        logits.append(load_file(tensors)["logits"])
    assert abs(logits[0] - logits[1]).max() < 1e-4
    back = {"task": "convert", "model": {"path": str(there)}}
    restored = tools.run_job(tmp_path / "back", back) / "export" / "model"
    assert files(restored) == files(base)
    # Another order of as many neurons gives the same logits: the hash tells that it is not the one before.
    order_file = there / "neuron_order" / "layer_00.json"
    document = tools.read_json(order_file)
    document["labels"] = [7 - label for label in document["labels"]]
    tools.write_json(order_file, document)
    job = tools.write_yaml(tmp_path / "wrong.yaml", back)
    done = tools.worker("run", job, "--out", tmp_path / "wrong").expect(tools.INTERNAL)
    assert "layer_00.json: was made from other weights" in done.err, done.err
    assert not (tmp_path / "wrong" / "export").exists()


def test_a_training_may_leave_that_order_too(tmp_path, coordinator):
    spec = tools.tiny_job(tuning="full", lora=None, emoe=tools.TINY_EMOE, export__original_order=False)
    job = coordinator.api.create(spec)
    there = coordinator.api.succeed(job.id).merge.model_dir
    own = tools.run_job(tmp_path / "own", tools.changed(spec, export__original_order=True))
    job = coordinator.api.create({"task": "convert", "model": {"path": there}})
    restored = coordinator.api.succeed(job.id)
    from safetensors.numpy import load_file
    ours = load_file(restored.merge.model_dir + "/model.safetensors")
    for name, tensor in load_file(own / "export" / "model" / "model.safetensors").items():
        assert (ours[name] == tensor).all(), name


def test_an_order_that_a_folder_has_is_not_lost(tmp_path):
    """Layers that another job does not move stay told; those that would be moved twice are refused."""
    order = {"original_order": False}
    first = tools.run_job(tmp_path / "first", convert_job(emoe__layers={"list": [1]}, export=order)) / "export" / "model"
    both = tools.run_job(tmp_path / "both", convert_job(model__path=str(first), export=order)) / "export" / "model"
    assert sorted(path.name for path in (both / "neuron_order").iterdir()) == [f"layer_{layer:02}.json" for layer in range(3)]
    back = tools.run_job(tmp_path / "back", {"task": "convert", "model": {"path": str(both)}}) / "export" / "model"
    assert files(back) == files(tools.TINY)
    # Trained in full, a gate has another hash, in the order that it had before.
    spec = tools.tiny_job(model__path=str(first), tuning="full", lora=None)
    tuned = tools.run_job(tmp_path / "tuned", spec) / "export" / "model"
    undone = tools.run_job(tmp_path / "undone", {"task": "convert", "model": {"path": str(tuned)}}) / "export" / "model"
    assert not (undone / "neuron_order").exists()
    job = tools.write_yaml(tmp_path / "again.yaml", convert_job(model__path=str(first), emoe__layers={"list": [1, 2]}, export=order))
    done = tools.worker("run", job, "--out", tmp_path / "again").expect(tools.USAGE)
    assert "layer 1 of" in done.err and "neuron_order/ already" in done.err, done.err


def test_a_person_is_told_where_the_experts_are(tmp_path, shared_coordinator):
    job = tools.write_yaml(tmp_path / "job.yaml", convert_job())
    shown = tools.run([tools.EMOECTL, "--server", shared_coordinator.grpc_address, "submit", "--wait", job]).expect().out
    there, = (line.split()[1] for line in shown.splitlines() if line.startswith("experts:"))
    assert tools.read_json(pathlib.Path(there).parent / "partition_report.json")["layers"]
    assert list(pathlib.Path(there).iterdir())


def test_what_is_refused(tmp_path, shared_coordinator):
    def violations(spec):
        with pytest.raises(ApiError) as caught:
            shared_coordinator.api.create(spec, validate_only=True)
        return dict(caught.value.violations)

    found = violations(convert_job(emoe=None))
    assert "original order; give emoe.experts" in found["model.path"], found
    job = tools.write_yaml(tmp_path / "job.yaml", convert_job(emoe=None))
    done = tools.worker("run", job, "--out", tmp_path / "out").expect(tools.USAGE)
    assert "original order; give emoe.experts" in done.err, done.err
    found = violations(convert_job(emoe__top_k=2, parallel={"ranks": 2}, data={"eval": str(tools.FIXTURES / "rows.json")}))
    assert set(found) == {"emoe.top_k", "parallel.ranks", "data.eval"}, found
    assert "no other order" in violations(tools.tiny_job(export__original_order=False))["export.original_order"]
    job = shared_coordinator.api.create(convert_job())
    assert shared_coordinator.api.succeed(job.id).progress.step == 0
