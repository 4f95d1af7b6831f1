"""`durable.ports.EventSource` on a queue of SQS, by boto3.

Laws.
1. What was received is hidden from others for HIDDEN_SECONDS, and half of them later again, until it is acknowledged.
   What is held at `close` is shown again at once; what a killed receiver held appears by itself.
2. There is no connection: a tag is good for as long as its events are hidden. What could not be deleted comes again.
3. One thread receives. Only a queue whose name ends in `.fifo` keeps an order, and gives no more of a message group
   before what it gave is acknowledged; events published to it are one group, and the same bytes twice are one.
4. A binary CloudEvent has its attributes as message attributes, `ce_type` or `ce-type`.
5. Errors name queue, region and remedy; no credential is in them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, TypeVar, cast

import botocore.exceptions as failures  # type: ignore[import-untyped]  # boto3 and botocore have no py.typed
from boto3.session import Session  # type: ignore[import-untyped]  # as above
from botocore.config import Config  # type: ignore[import-untyped]  # as above
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]  # as above

from durable.model.errors import TransportError
from durable.ports import Published

from .boto import CREDENTIALS, NO_CREDENTIALS, code_of
from .cloud_events import structured
from .sqs_url import Target

TOGETHER: Final = 10  # messages in one request, at most
LARGEST: Final = 256 * 1024  # bytes of the bodies in one request; a larger one goes alone
HIDDEN_SECONDS: Final = 30
WAIT_SECONDS: Final = 1  # for messages: `close` may have to wait as long
PAUSE_SECONDS: Final = 1.0
THREADS: Final = 8
ATTEMPTS: Final = 3

Sink = Callable[[Sequence[bytes], object], None]
T = TypeVar("T")

_FAILURES: Final = (failures.ClientError, failures.BotoCoreError, ResponseParserError)
_GONE: Final = "does not exist: make it, or check region and name"
_EXPLANATIONS: Final = {
    "AWS.SimpleQueueService.NonExistentQueue": _GONE,
    "QueueDoesNotExist": _GONE,
    "AccessDenied": "refuses this user: allow sqs:GetQueueUrl, ReceiveMessage, DeleteMessage, ChangeMessageVisibility "
    "and SendMessage",
    "InvalidClientTokenId": f"does not know these credentials: {CREDENTIALS}",
    "UnrecognizedClientException": f"does not know these credentials: {CREDENTIALS}",
    "SignatureDoesNotMatch": f"refuses these credentials: {CREDENTIALS}",
    "ExpiredToken": f"refuses credentials that have expired: {CREDENTIALS}",
}

log = logging.getLogger("durable.sqs")


class _Batch:
    """A tag: the receipts of what came together, and when it must be hidden again, by the monotonic clock."""

    def __init__(self, receipts: list[str], until: float) -> None:
        self.receipts = receipts
        self.hide_at = until


class SqsSource:
    """`sqs.open_source` opens it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        config = Config(
            connect_timeout=target.timeout,
            read_timeout=WAIT_SECONDS + target.timeout,
            max_pool_connections=THREADS + 1,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            tcp_keepalive=True,
        )
        try:
            self._client = Session().client(
                "sqs", region_name=target.region, endpoint_url=target.endpoint, config=config
            )
            self._url = self._client.get_queue_url(QueueName=target.queue)["QueueUrl"]
        except (*_FAILURES, ValueError) as error:
            raise self._explained(error) from error
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="durable-sqs")
        self._changed = threading.Condition()
        self._held: dict[_Batch, None] = {}
        self._room = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<SqsSource {self._target.where}>"

    # From any thread.

    def receive(self, prefetch: int, sink: Sink) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch is 1 or more, not {prefetch}")
        with self._changed:
            if self._closed:
                raise TransportError(f"{self._target.where}: this source was closed; open it again")
            if self._thread is not None:
                raise TransportError(f"from {self._target.where} this source receives already")
            self._room = prefetch
            self._thread = threading.Thread(target=self._run, args=(sink,), name="durable-sqs-source", daemon=True)
            self._thread.start()

    def ack(self, tags: Sequence[object]) -> None:
        receipts: list[str] = []
        with self._changed:
            if self._closed:
                return
            for batch in cast("Sequence[_Batch]", tags):
                if batch in self._held:
                    del self._held[batch]
                    receipts += batch.receipts
            self._room += len(receipts)
            self._changed.notify_all()
            for some in _split(receipts):
                self._pool.submit(self._delete, some)

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        parts = [*_parts(bodies)]
        # One after the other where there is an order to keep.
        send = map if self._target.is_fifo or len(parts) < 2 else self._pool.map
        try:
            answers = [] if self._closed else [*chain.from_iterable(send(self._send, parts))]
        except RuntimeError:  # of the pool, which has been shut down meanwhile
            answers = []
        return answers or [Published.UNKNOWN] * len(bodies)

    def close(self) -> None:
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify_all()
        if closed:
            return
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()  # a request has a timeout
        self._pool.shutdown()
        self._hide([*self._held], 0)
        self._client.close()

    # On threads of the source's.

    def _run(self, sink: Sink) -> None:
        well = True
        while not self._closed:
            try:
                self._hide([batch for batch in tuple(self._held) if batch.hide_at <= time.monotonic()], HIDDEN_SECONDS)
                self._receive(sink)
                well = True
            except _FAILURES as error:
                log.log(logging.WARNING if well else logging.DEBUG, "%s; asking again", self._explained(error))
                well = False
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, PAUSE_SECONDS)

    def _receive(self, sink: Sink) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._room > 0 or self._closed, PAUSE_SECONDS) or self._closed:
                return
            count = min(TOGETHER, self._room)
        until = time.monotonic() + HIDDEN_SECONDS / 2
        messages = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=count,
            VisibilityTimeout=HIDDEN_SECONDS,
            WaitTimeSeconds=WAIT_SECONDS,
            MessageAttributeNames=["All"],
        ).get("Messages")
        if not messages:
            return
        batch = _Batch([message["ReceiptHandle"] for message in messages], until)
        with self._changed:
            self._held[batch] = None
            self._room -= len(messages)
            if self._closed:
                return
        try:
            sink([*map(_event, messages)], batch)
        except Exception:  # the receiver's mistake: these stay unacknowledged
            log.exception("the receiver of %s raised", self._target.where)

    def _hide(self, batches: Sequence[_Batch], seconds: int) -> None:
        """From others, for so long from now; 0: nothing is hidden any more."""
        for batch in batches:
            batch.hide_at = time.monotonic() + HIDDEN_SECONDS / 2
        for some in _split([receipt for batch in batches for receipt in batch.receipts]):
            entries = [{**one, "VisibilityTimeout": seconds} for one in _entries(some)]
            self._try("change_message_visibility_batch", entries, "they may come again")

    def _delete(self, receipts: Sequence[str]) -> None:
        self._try("delete_message_batch", _entries(receipts), "they come again")

    def _send(self, bodies: Sequence[bytes]) -> list[Published]:
        entries = []
        for number, body in enumerate(bodies):
            entry = {"Id": str(number), "MessageBody": body.decode(errors="replace")}
            if self._target.is_fifo:
                entry |= {"MessageGroupId": "durable", "MessageDeduplicationId": hashlib.sha256(body).hexdigest()}
            entries.append(entry)
        answer = self._try("send_message_batch", entries, "they may not have arrived")
        there = {int(one["Id"]) for one in answer.get("Successful", ())}
        return [Published.CONFIRMED if number in there else Published.UNKNOWN for number in range(len(bodies))]

    def _try(self, verb: str, entries: list[dict[str, Any]], otherwise: str) -> dict[str, Any]:
        """The answer; none, said in the log, when there is none."""
        try:
            answer: dict[str, Any] = getattr(self._client, verb)(QueueUrl=self._url, Entries=entries)
        except _FAILURES as error:
            log.warning("%s; some events are concerned: %s", self._explained(error), otherwise)
            return {}
        for failed in answer.get("Failed", ()):
            log.warning("%s refused an event (%s): %s", self._target.where, failed.get("Code"), otherwise)
        return answer

    def _explained(self, error: Any) -> TransportError:
        where, code = self._target.where, code_of(error)
        if code:
            message = error.response.get("Error", {}).get("Message", "")
            return TransportError(f"{where} {_EXPLANATIONS.get(code, f'refused: {code}: {message}')}")
        if isinstance(error, NO_CREDENTIALS):
            return TransportError(f"{where} can't be asked without AWS credentials: {CREDENTIALS}")
        if isinstance(error, (failures.HTTPClientError, failures.ConnectionError, ResponseParserError)):
            return TransportError(f"{where} can't be reached, or does not answer; check endpoint= and the network")
        return TransportError(f"{where} can't be used: {type(error).__name__}: {error}")


def _event(message: dict[str, Any]) -> bytes:
    named = {name: one.get("StringValue") or one.get("BinaryValue", b"") for name, one in _attributes(message)}
    return structured(message["Body"].encode(), named.pop("content-type", None), named)


def _attributes(message: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name.lower(), one) for name, one in message.get("MessageAttributes", {}).items())


def _split(some: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(some), TOGETHER):
        yield some[first : first + TOGETHER]


def _parts(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    """As many as go in one request."""
    part: list[bytes] = []
    size = 0
    for body in bodies:
        if part and (len(part) == TOGETHER or size + len(body) > LARGEST):
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body)
    if part:
        yield part


def _entries(receipts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
