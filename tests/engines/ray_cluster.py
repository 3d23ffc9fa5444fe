"""A Ray cluster of two nodes on this machine. Needs the package ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ray_cluster() -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Context manager: the environment with which a cluster of two nodes is found, and what kills the second one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        cluster.wait_for_nodes()
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        yield environment, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()
