"""A Ray cluster of two nodes on this machine: run as a program, it prints its address and ends with its input.

With RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 in the environment it listens on the loopback address alone.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
