"""TF_CONFIG for workers on this machine."""

import socket


def two_worker_configs() -> list[dict]:
    """One TF_CONFIG for each of two workers on free ports of 127.0.0.1."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    return [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
