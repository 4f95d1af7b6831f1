"""Encrypted payloads: the store and the broker see names and ids, never what is passed around.

    pip install cryptography
    python samples/encrypted.py

The key is the first line of `encryption.key`, made by the first run; keys of earlier days may stand below it. To look
at it, with the key and without (PYTHONPATH says where this file is):

    PYTHONPATH=samples DURABLE_CODEC=encrypted:codec durable show letter-1
    durable show letter-1

`durable worker` takes the codec from DURABLE_CODEC too. For compression, encode and decode are zlib's compress and
decompress.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, MultiFernet

import durable


class Encryption:
    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(Fernet.generate_key())
        # The first key encrypts, all of them decrypt: put a new one on top to change keys in mid-flight.
        self._keys = MultiFernet([Fernet(key) for key in file.read_bytes().split()])

    def encode(self, data: bytes) -> bytes:
        return self._keys.encrypt(data)

    def decode(self, data: bytes) -> bytes:
        return self._keys.decrypt(data)


codec = Encryption(Path("encryption.key"))


@durable.activity
def sign(letter: str) -> str:
    return f"{letter} -- Alice"


@durable.orchestrator
def correspond(ctx: durable.OrchestrationContext, letter: str) -> Generator[Any, Any, str]:
    return (yield from ctx.call_activity(sign, letter))


if __name__ == "__main__":
    with durable.connect(codec=codec) as client, durable.Worker(client):
        handle = client.start_orchestration(correspond, "meet me at noon", instance_id="letter-1", if_exists="return")
        print(handle.result())
