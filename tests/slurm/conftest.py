"""Slurm for the tests of this folder."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))

from slurm_cluster import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def whole(request):
    """A test finds the cluster as it was made, whatever became of the one before."""
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").make_ready()


@pytest.fixture
def coordinator(cluster, tmp_path):
    with cluster.coordinator(tmp_path) as running:
        yield running
