"""A DynamoDB, an S3 and an SQS of the tests' own: ministack, from PyPI. What it keeps is in memory.

It never throttles and never answers TransactionConflict, as DynamoDB does: tests put those answers in themselves.
"""

from __future__ import annotations

import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.error import URLError

from .process import HOST, ServerProcess

REGION: Final = "eu-central-1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def _command() -> str | None:
    """Beside this interpreter, else on PATH."""
    beside = Path(sys.executable).with_name("ministack")
    return str(beside) if beside.exists() else shutil.which("ministack")


def missing_dynamodb() -> str | None:
    """Why there is no DynamoDB to test with, and the remedy; None when there is one."""
    return None if _command() else "ministack is not installed: pip install -e .[dev]"


class DynamoServer(ServerProcess):
    """One that has no table yet."""

    name = "ministack"

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def url(self, parameters: str = "", table: str = "durable", port: int | None = None) -> str:
        """The URL of a table; `port` for another way to the same server."""
        return f"dynamodb://{REGION}/{table}?endpoint=http://{HOST}:{port or self.port}{parameters}"

    def bucket(self, bucket: str, parameters: str = "", port: int | None = None) -> str:
        """The URL of a place in a bucket."""
        return f"s3://{bucket}/a/place?region={REGION}&endpoint=http://{HOST}:{port or self.port}{parameters}"

    def queue(self, queue: str, parameters: str = "", port: int | None = None) -> str:
        """The URL of a queue."""
        return f"sqs://{REGION}/{queue}?endpoint=http://{HOST}:{port or self.port}{parameters}"

    def command(self) -> Sequence[str]:
        return [_command() or "ministack"]

    def environment(self) -> Mapping[str, str]:
        return {
            "BIND_HOST": HOST,  # it listens everywhere unless told otherwise
            "GATEWAY_PORT": str(self.port),
            "SERVICES": "dynamodb,s3,sqs",
            "LOG_LEVEL": "WARNING",
            "HOME": str(self.folder),
            "STATE_DIR": str(self.folder),
            "TMPDIR": str(self.folder),  # where it writes its pid
        }

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=0.5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False
