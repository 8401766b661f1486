"""`python -m outpace.bench.peers [NAME ...]`: install the environments of the peers, all by default (`make peers`)."""

from __future__ import annotations

import sys

from outpace.bench.peers import PEERS
from outpace.bench.peers.environment import install, packages_of, peer_module
from outpace.errors import OutpaceError
from outpace.progress import note


def main(names: list[str]) -> int:
    """Install each; a failure is reported and the others go on. Exit code 1 if one failed."""
    failed = 0
    for name in names or [name for name in PEERS if packages_of(peer_module(name))]:
        try:
            note(f"{name}: {install(name)}")
        except OutpaceError as error:
            failed = 1
            note(f"{name}: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
