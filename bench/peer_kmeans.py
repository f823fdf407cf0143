#!/usr/bin/env python3
"""k-means-constrained, the library the method's authors use, from the rows and starts that kmeans_bench --keep left:

    bench/peer_kmeans.py FOLDER ROWS CLUSTERS

It wants another protobuf than the tests' environment has, so it runs in its own; see make_partition_fixture.py. Prints one
JSON line like kmeans_bench's.
"""
import json
import sys
import time

import numpy as np
from k_means_constrained import KMeansConstrained


def inertia(rows, labels, clusters):
    members = [rows[labels == c].astype(np.float64) for c in range(clusters)]
    return float(sum(((each - each.mean(0)) ** 2).sum() for each in members))


def main():
    folder, count, clusters = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rows = np.fromfile(f"{folder}/rows.f32", np.float32).reshape(count, -1)
    starts = np.loadtxt(f"{folder}/starts.txt", dtype=np.int64, ndmin=2)
    seconds, iterations, best = 0.0, 0, np.inf
    for start in starts:
        kmeans = KMeansConstrained(clusters, size_min=count // clusters, size_max=count // clusters, init=rows[start].copy(),
                                   n_init=1, max_iter=1000)
        begin = time.monotonic()
        kmeans.fit(rows)
        seconds += time.monotonic() - begin
        iterations += int(kmeans.n_iter_)
        best = min(best, inertia(rows, kmeans.labels_, clusters))
    print(json.dumps({"seconds": seconds, "iterations": iterations, "inertia": best}))


if __name__ == "__main__":
    main()
