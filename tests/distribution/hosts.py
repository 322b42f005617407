"""Hosts with addresses of their own on this machine: network namespaces, joined by a bridge. Needs root."""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PORT = 2222
_NUMBERS = itertools.count()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def why_not() -> str | None:
    """What keeps this machine from having such hosts; None if nothing does."""
    if not shutil.which("ip"):
        return "network namespaces need iproute2"
    try:
        _ip("netns", "add", "rfd-probe")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    _ip("netns", "delete", "rfd-probe")
    return None


@dataclasses.dataclass(frozen=True)
class Host:
    """A network namespace. Its disk and its clock are this machine's."""

    name: str
    address: str
    cable: str

    def on(self, *command: str) -> list[str]:
        """The command, to be run on this host."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut_off(self) -> None:
        """Pull its cable: what it sends is lost, and it gets nothing."""
        _ip("link", "set", self.cable, "down")

    def connect(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.cable, "up")

    def slow_down(self, rate: str, queue: str = "1s") -> None:
        """Let its cable carry no more than `rate` both ways.

        Args:
            rate: as `tc` reads it: "4mbit".
            queue: how long a packet may wait, as `tc` reads it; with a short one many are lost.
        """
        for tc, cable in self._ends():
            limit = ["tbf", "rate", rate, "burst", "4kb", "latency", queue]
            _run(*tc, "qdisc", "replace", "dev", cable, "root", *limit)

    def packets(self) -> collections.Counter:
        """Of a slowed cable, both ways: `bytes`, lost packets (`drops`), waits (`overlimits`)."""
        found: collections.Counter = collections.Counter()
        for tc, cable in self._ends():
            for queue in json.loads(_run(*tc, "-s", "-j", "qdisc", "show", "dev", cable)):
                if queue["kind"] == "tbf":
                    found.update({name: queue[name] for name in ("bytes", "drops", "overlimits")})
        return found

    def _ends(self) -> list[tuple[list[str], str]]:
        """Of its cable: the command that sets what leaves there, and the end's name."""
        return [(["tc", "-n", self.name], "eth0"), (["tc"], self.cable)]


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """So many hosts on one network; they are gone afterwards, whatever happens."""
    tag = f"rfd{os.getpid() % 100_000}{next(_NUMBERS)}"  # a deleted namespace may keep its cable for a while
    hosts = [Host(f"{tag}h{i}", f"10.99.0.{i + 1}", f"{tag}c{i}") for i in range(count)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", f"{tag}b", "type", "bridge")
        stack.callback(_ip, "link", "delete", f"{tag}b")
        _ip("link", "set", f"{tag}b", "up")
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "delete", host.name)  # and its end of the cable
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.cable, "master", f"{tag}b", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts


def faketime() -> str | None:
    """The library of Debian's package `faketime`, which shifts a process's clock; None where it is not."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found else None


def shifted_clock(by: str) -> dict[str, str]:
    """Variables of a process whose time of day is off; the time that has passed it knows as others do.

    Args:
        by: as libfaketime reads it: "+2h", "-1y".
    """
    return {"LD_PRELOAD": str(faketime()), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def tf_config(hosts: list[Host], index: int) -> dict[str, str]:
    """TF_CONFIG of one worker a host."""
    cluster = {"worker": [f"{host.address}:{PORT}" for host in hosts]}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
