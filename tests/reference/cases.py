"""A golden case (config.yaml, result.json and tensors in one folder) and how to ask the worker for the same thing."""
import hashlib
import json
import pathlib
import shutil
import struct
import tarfile

import yaml
from safetensors.numpy import load_file

import emoe_tools as tools

# The published Alpaca prompts (github.com/tatsu-lab/stanford_alpaca).
ALPACA = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
          "that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:")
ALPACA_NO_INPUT = ("Below is an instruction that describes a task. Write a response that appropriately completes the request."
                   "\n\n### Instruction:\n{instruction}\n\n### Response:")
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant_with_warmup": "constant"}


def prompt_of(record):
    return (ALPACA if record.get("input") else ALPACA_NO_INPUT).format(**record)


def safetensors_header(path):
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def raw_tensor(path, name):
    """The bytes of one tensor, as stored."""
    header, begin = safetensors_header(path)
    first, last = header[name]["data_offsets"]
    with open(path, "rb") as file:
        file.seek(begin + first)
        return file.read(last - first)


class Case:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.name = self.folder.name
        self.config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        self.command = self.config["command"]

    @property
    def result(self):
        return tools.read_json(self.folder / "result.json")

    def path(self, key):
        return (self.folder / self.config[key]).resolve()

    def tensors(self, name):
        return load_file(self.folder / name)

    def rows(self, start, count):
        return tools.read_json(self.path("data"))[self.config[start]:self.config[start] + self.config[count]]

    # ------------------------------------------------------------ training
    def job(self, folder):
        """The spec of a training case, its data and partition files written below `folder`."""
        c, folder = self.config, pathlib.Path(folder)
        spec = {
            "name": self.name,
            "task": "train",
            "model": {"path": str(self.path("model")), "dtype": "float32"},
            "data": {"train": str(tools.write_json(folder / "train.json", self.rows("data_start", "data_count"))),
                     "eval": str(tools.write_json(folder / "eval.json", self.rows("eval_start", "eval_count"))),
                     "format": "alpaca", "max_length": c["max_length"], "packing": False, "shuffle": False},
            "tuning": "lora" if "lora" in c else "full",
            "optimizer": {"learning_rate": c["learning_rate"], "schedule": SCHEDULES[c["lr_scheduler_type"]],
                          "warmup_ratio": c["warmup_ratio"], "weight_decay": c["weight_decay"],
                          "max_grad_norm": c["max_grad_norm"]},
            "train": {"max_steps": c["max_steps"], "global_batch": c["global_batch_size"], "drop_last": True,
                      "loss_reduction": c["loss_reduction"], "seed": 0},
            "checkpoint": {"every_steps": 0},
            "parallel": {"ranks": 1},
            "export": {"dtype": "float32"},
            "resources": {"device": "cpu", "threads_per_rank": 1},
        }
        if "lora" in c:
            spec["lora"] = {"rank": c["lora"]["r"], "alpha": c["lora"]["alpha"], "dropout": 0.0,
                            "targets": c["lora"]["target_modules"], "init_adapter": str(self.folder / "init_adapter")}
        if "experts" in c:
            spec["emoe"] = self.emoe(folder)
        return spec

    def evaluation(self, folder):
        """A job that evaluates the golden result of a training case: its adapter on the base, or its model."""
        spec = tools.as_evaluation(self.job(folder))
        if "lora" in self.config:
            return {**spec, "adapter": str(self.folder / "final_adapter")}
        model = pathlib.Path(shutil.copytree(self.path("model"), pathlib.Path(folder) / "final"))
        shutil.copy(self.folder / "final" / "model.safetensors", model)
        emoe = self.emoe(folder, model=model) if "experts" in self.config else None
        return tools.changed(spec, model__path=str(model), emoe=emoe)

    def suite(self, folder):
        """A job that asks the questions of a suite's case, its archives unpacked below `folder`."""
        c, folder = self.config, pathlib.Path(folder)
        for key, part in (("dev", "dev"), ("questions", c["split"])):
            (folder / "suite" / part).mkdir(parents=True)
            with tarfile.open(self.path(key)) as archive:
                for member in filter(tarfile.TarInfo.isfile, archive.getmembers()):
                    file = folder / "suite" / part / pathlib.Path(member.name).name
                    file.write_bytes(archive.extractfile(member).read())
        evaluate = {"suite": "mmlu", "path": str(folder / "suite"), "shots": c["num_shots"], "split": c["split"],
                    "subjects": c["subjects"], "limit": c["questions_per_subject"], "max_length": c["max_length"]}
        spec = {"name": self.name, "task": "evaluate", "model": {"path": str(self.path("model")), "dtype": "float32"},
                "evaluate": evaluate, "resources": {"device": "cpu", "threads_per_rank": 1}}
        if "adapter" in c:
            spec["adapter"] = str(self.path("adapter"))
        return {**spec, "emoe": self.emoe(folder)} if "experts" in c else spec

    def emoe(self, folder, selector=None, model=None):
        """The emoe section of a case, its labels written as a partition folder for `model` (the case's own by default)."""
        c = self.config
        table = tools.read_json(self.path("experts"))
        partition = write_partition(pathlib.Path(folder) / "partition", table, model or self.path("model"), c["layers"])
        return {"experts": table["num_experts"], "top_k": c["num_selected"], "layers": {"list": c["layers"]},
                "partition": {"method": "file", "path": str(partition)}, "selector": selector or c.get("selector", "top")}


def write_partition(folder, table, model, layers):
    """A partition/ folder as a run leaves it, from the labels of an experts.json."""
    for layer in layers:
        gate = raw_tensor(model / "model.safetensors", f"model.layers.{layer}.mlp.gate_proj.weight")
        tools.write_json(folder / f"layer_{layer:02d}.json", {
            "experts": table["num_experts"], "labels": table["labels"][layer],
            "inertia": table["inertia"][layer] if "inertia" in table else 0.0, "method": "kmeans", "seed": 0,
            "weight_hash": hashlib.sha256(gate).hexdigest()})
    return folder


def find_cases(root):
    return [Case(path.parent) for path in sorted(pathlib.Path(root).glob("*/config.yaml"))]
