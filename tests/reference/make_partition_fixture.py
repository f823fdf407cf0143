#!/usr/bin/env python3
"""Makes tests/reference/data/partition-n8: balanced k-means of the tiny model's gate rows by k-means-constrained, the
library the method's authors use. It wants another protobuf than the tests' environment has, so it runs in its own:

    python3 -m venv /some/folder && /some/folder/bin/pip install k-means-constrained==0.9.1 safetensors pyyaml
    /some/folder/bin/python tests/reference/make_partition_fixture.py        (after make_fixtures.py made another model)
"""
import json
import pathlib

import numpy as np
import yaml
from k_means_constrained import KMeansConstrained
from safetensors.numpy import load_file

DATA = pathlib.Path(__file__).resolve().parent / "data"
EXPERTS, LAYERS = 8, 3


def inertia(rows, labels):
    """Sum of squared distances to the plain mean of each expert, in double precision."""
    return float(sum(((rows[labels == e] - rows[labels == e].mean(0)) ** 2).sum() for e in range(EXPERTS)))


def main():
    folder, weights = DATA / f"partition-n{EXPERTS}", load_file(DATA / "tiny" / "model.safetensors")
    table = {"num_experts": EXPERTS, "inertia": [], "labels": []}
    for layer in range(LAYERS):
        rows = weights[f"model.layers.{layer}.mlp.gate_proj.weight"].astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        size = len(rows) // EXPERTS
        labels = KMeansConstrained(EXPERTS, size_min=size, size_max=size, n_init=10, max_iter=1000,
                                   random_state=0).fit_predict(rows)
        table["labels"].append(labels.tolist())
        table["inertia"].append(float(f"{inertia(rows, labels):.9g}"))
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"command": "partition", "model": "../tiny", "num_experts": EXPERTS}))
    (folder / "experts.json").write_text(json.dumps(table) + "\n")
    print(table["inertia"])


if __name__ == "__main__":
    main()
