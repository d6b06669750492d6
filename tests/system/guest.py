"""What runs in the emulated machine of `test_qemu`: look at the disk, take the update up, say how it ends.

    python3 -m tests.system.guest FOLDER

Every line that it says begins with `edgetrt:`; the host reads them from the serial line.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from edgetrt.update import archive
from edgetrt.update.record import Memory, Store
from tests.update.device import Device, offer


def main() -> int:
    """As above; nothing is begun before the host says so."""
    folder = Path(sys.argv[1])
    root, bundle = (folder / "root.json").read_bytes(), folder / "2.edgetrt"
    device = Device(folder / "device", root, store=Saying)
    say(f"found {serves(device)}")
    say("ready")
    sys.stdin.readline()
    say("begun")
    device.machine.offer(offer((folder / "envelope").read_bytes(), bundle))
    record = device.settle()
    code = record.code.value if record.code else ""
    say(f"ended {code} {record.digest} {serves(device)} {device.engines.serving()}")
    return 0


class Saying:
    """A store that says every state when it is on the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> Memory:
        return self._store.load()

    def save(self, memory: Memory) -> None:
        self._store.save(memory)
        if memory.record is not None:
            say(f"state {(memory.record.code or memory.record.state).value}")


def serves(device: Device) -> str:
    """Digest of the release that serves, when every byte of it is there."""
    digest = device.layout.current()
    folder = device.layout.release(digest)
    for name, stored in archive.read(folder).files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != stored.sha256:
            return f"damaged:{name}"
    return digest


def say(what: str) -> None:
    print(f"edgetrt: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
