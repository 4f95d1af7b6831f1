"""Large payloads in a bucket: an object each, several requests at a time, none of which waits for ever.

Laws.
1. What one object can't give is a reason (`Blobs.get`); what the bucket can't give is a StoreError. So one object of
   another owner or key holds up one instance, and a bucket that is away holds up a worker until it is back.
2. Every request may be repeated, and is repeated once: two timeouts, then it has failed. Once an object has begun to
   come, it has failed when nothing more comes within one timeout.
3. An answer that was cut off is none. botocore reads some as if nothing were there.
4. Errors name bucket, endpoint and remedy; no credential is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from http import HTTPStatus
from itertools import chain
from typing import Any, Final, TypeVar

import botocore.exceptions as failures  # type: ignore[import-untyped]  # boto3 and botocore have no py.typed
from boto3.session import Session  # type: ignore[import-untyped]  # as above
from botocore.config import Config  # type: ignore[import-untyped]  # as above
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]  # as above

from durable.model.errors import StoreError
from durable.ports import Blob

from .boto import CREDENTIALS, NO_CREDENTIALS, code_of
from .s3_url import Target

THREADS: Final = 16
ATTEMPTS: Final = 2
_DELETED_TOGETHER: Final = 1_000
_EXPLANATIONS: Final = {
    "NoSuchBucket": "does not exist: make it, or check name, region= and endpoint=",
    "404": "does not exist: make it, or check name, region= and endpoint=",
    "AccessDenied": "refuses what this user asked: allow s3:GetObject, s3:PutObject and s3:DeleteObject on its "
    "objects, and s3:ListBucket on the bucket",
    "403": "refuses this user: allow s3:ListBucket on the bucket, and check the credentials",
    "301": "is in another region: give region=",
    "PermanentRedirect": "is in another region: give region=",
    "InvalidAccessKeyId": f"does not know these credentials: {CREDENTIALS}",
    "SignatureDoesNotMatch": f"refuses these credentials: {CREDENTIALS}",
    "ExpiredToken": f"refuses credentials that have expired: {CREDENTIALS}",
    "InvalidToken": f"refuses these credentials: {CREDENTIALS}",
    "RequestTimeTooSkewed": "refuses this machine's time: set its clock",
}
# Of one object: what they say about it. Whoever may not list a bucket is told AccessDenied of what is missing.
_OF_ONE: Final = {
    "NoSuchKey": "is missing in {where}",
    "AccessDenied": "is missing in {where}, or is not for this user",
}
_LATER: Final = frozenset("SlowDown InternalError ServiceUnavailable RequestTimeout 429 500 502 503 504".split())
_FAILURES: Final = (failures.ClientError, failures.BotoCoreError, ResponseParserError)
_SILENCE: Final = (
    failures.HTTPClientError,
    failures.ConnectionError,
    failures.IncompleteReadError,
    ResponseParserError,
)

A = TypeVar("A")
B = TypeVar("B")


class S3Blobs:
    """Made by `s3.open_s3`."""

    def __init__(self, target: Target, workspace: str) -> None:
        self._target = target
        self._root = f"{target.prefix}{workspace}/"
        config = Config(
            connect_timeout=target.timeout,
            read_timeout=target.timeout,
            max_pool_connections=THREADS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            s3={"addressing_style": "path" if target.endpoint else "auto"},
            tcp_keepalive=True,
        )
        try:
            self._client = Session().client(
                "s3", region_name=target.region, endpoint_url=target.endpoint, config=config
            )
        except (failures.BotoCoreError, ValueError) as error:
            raise self._explained(error) from error
        for verb in ("ListObjectsV2", "DeleteObjects"):
            self._client.meta.events.register(f"before-parse.s3.{verb}", _refuse_cut_off)
        self._closed = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        try:
            self._ask("head_bucket")
        except BaseException:
            self.close()
            raise

    def put(self, blobs: Mapping[str, bytes]) -> None:
        self._map(lambda item: self._ask("put_object", Key=self._root + item[0], Body=item[1]), blobs.items())

    def get(self, names: Sequence[str]) -> list[bytes | str]:
        return self._map(self._read, names)

    def _read(self, name: str) -> bytes | str:
        try:
            answer = self._client.get_object(Bucket=self._target.bucket, Key=self._root + name)
            data: bytes = answer["Body"].read()
            if "ContentLength" not in answer:
                raise _cut_off()
            return data
        except _FAILURES as error:
            code = code_of(error)
            if not code or (code not in _OF_ONE and (code in _EXPLANATIONS or code in _LATER)):
                raise self._explained(error) from error
            return _OF_ONE.get(code, f"can't be read from {{where}} ({code})").format(where=self._target.where)

    def names(self, prefixes: Sequence[str]) -> list[Blob]:
        return list(chain.from_iterable(self._map(self._below, dict.fromkeys(prefixes))))

    def _below(self, prefix: str) -> list[Blob]:
        found: list[Blob] = []
        asked: dict[str, Any] = {"Prefix": self._root + prefix}
        while True:
            page = self._ask("list_objects_v2", **asked)
            for item in page.get("Contents", ()):
                found.append(Blob(item["Key"].removeprefix(self._root), item["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                return found
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, names: Sequence[str]) -> None:
        batches = [names[first : first + _DELETED_TOGETHER] for first in range(0, len(names), _DELETED_TOGETHER)]
        self._map(self._delete, batches)

    def _delete(self, names: Sequence[str]) -> None:
        objects = [{"Key": self._root + name} for name in names]
        answer = self._ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise self._said(str(refused.get("Code", "")), str(refused.get("Message", "")))

    def close(self) -> None:
        """Send no more. Idempotent."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _map(self, call: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call it with each, at once. One alone needs no thread."""
        some = list(items)
        if len(some) < 2:
            return [call(item) for item in some]
        try:
            return list(self._pool.map(call, some))
        except (RuntimeError, CancelledError) as error:
            if not self._closed:
                raise
            raise StoreError(f"{self._target.where}: this place was closed; connect again") from error

    def _ask(self, verb: str, **asked: Any) -> Any:
        try:
            return getattr(self._client, verb)(Bucket=self._target.bucket, **asked)
        except _FAILURES as error:
            raise self._explained(error) from error

    def _explained(self, error: Any) -> StoreError:
        where = self._target.where
        if isinstance(error, failures.ClientError):
            return self._said(code_of(error), str(error.response.get("Error", {}).get("Message", "")))
        if isinstance(error, NO_CREDENTIALS):
            return StoreError(f"{where} can't be asked without AWS credentials: {CREDENTIALS}")
        if isinstance(error, _SILENCE):
            return StoreError(f"{where} can't be reached, or does not answer; check endpoint= and the network")
        return StoreError(f"{where} can't be used: {type(error).__name__}: {error}")

    def _said(self, code: str, message: str) -> StoreError:
        if code in _EXPLANATIONS:
            return StoreError(f"{self._target.where} {_EXPLANATIONS[code]}")
        if code in _LATER:
            return StoreError(f"{self._target.where} is throttled or unwell ({code}); try again later")
        return StoreError(f"{self._target.where} refused: {code}: {message}")


def _refuse_cut_off(response_dict: Any, **_: Any) -> None:
    if response_dict["status_code"] == HTTPStatus.OK and not response_dict["body"]:
        raise _cut_off()


def _cut_off() -> Any:
    return failures.HTTPClientError(error="the answer was cut off")
