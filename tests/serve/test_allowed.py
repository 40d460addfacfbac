"""Who may connect, tested with addresses of a separate network: none of them is another machine's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pacs.conftest import network as network
from tests.pacs.network import Network

#: Addresses of this machine in that network, and whether the site below lets them in.
PEERS = {
    "10.20.30.40": True,  # in 10.20.30.0/24, and seen as ::ffff:10.20.30.40
    "10.20.31.40": False,
    "172.16.0.9": True,  # by its own address
    "172.16.0.10": False,
    "fd00:1::7": True,  # in fd00:1::/32, and not within the host bits of it alone
    "fd00:2::7": False,
    "::1": True,  # this machine, always
}
SITE = """
host = "::"
port = 0
allow = ["10.20.30.0/24", "172.16.0.9", "fd00:1::5/32"]
audit = "audit.jsonl"
[limits]
first_s = 0.3
ready_MiB = 0
"""


@contextmanager
def serving(network: Network, folder: Path) -> Iterator[int]:
    """The port of a server in the network that listens at all of its addresses."""
    (folder / "site.toml").write_text(SITE)
    command = [sys.executable, "-m", "recon", "serve", "--config", str(folder / "site.toml")]
    with (folder / "log").open("w") as log:
        process = network.call(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.terminate()
        process.communicate(timeout=20)


def heard(peer: str, port: int) -> bytes:
    """What a peer hears that connects from its address to the same one, and says nothing."""
    out = b""
    connected = socket.create_connection((peer, port), 20, source_address=(peer, 0))
    with connected, contextlib.suppress(ConnectionResetError):
        while got := connected.recv(1 << 12):
            out += got
    return out


def test_f41_only_those_of_the_allow_list_are_spoken_to(network: Network, tmp_path: Path) -> None:
    for peer in PEERS:
        if peer != "::1":
            network.call(network.give, peer)
    with serving(network, tmp_path) as port:
        answers = {peer: network.call(heard, peer, port) for peer in PEERS}
    assert {peer: b"no message came within 0.3 s" in said for peer, said in answers.items()} == PEERS
    assert [peer for peer, said in answers.items() if said and not PEERS[peer]] == []
    log = (tmp_path / "log").read_text()
    for peer, may in PEERS.items():
        assert (f"{peer} is not in the allow-list; refused" in log) is not may
