"""A cluster of one's own for the tests of this folder: a fake API server with what stands behind it."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))

from fake_cluster import Cluster  # noqa: E402


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def coordinator(cluster, tmp_path):
    with cluster.coordinator(tmp_path) as running:
        yield running
