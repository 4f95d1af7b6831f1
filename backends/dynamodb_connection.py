"""Requests to DynamoDB: sent by boto3, repeated here and nowhere else, explained when they fail.

Laws.
1. botocore repeats nothing: it would hide that a request may have been carried out twice. What is repeated here is what
   was refused for the moment (throttling, TransactionConflict) and what is safe to repeat: reads, transactions under
   their token, writes whose condition tells that it was they themselves. Back-off with full jitter.
2. A condition that does not hold is an answer (`Refused`, with the item as it is), not a failure.
3. `Unknown` is a StoreError: the request was sent, and no answer of DynamoDB's own says what became of it, however
   often; also where a later attempt was refused for good, which says nothing about those before. A status from 500 on,
   whoever answers it, is no such answer. Nothing else leaves it open whether something was written.
4. Errors name table, region, endpoint and remedy; no credential is in them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, TypeVar

import botocore.exceptions as failures  # type: ignore[import-untyped]  # boto3 and botocore have no py.typed
import msgspec
from boto3.session import Session  # type: ignore[import-untyped]  # as above
from botocore.config import Config  # type: ignore[import-untyped]  # as above
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from durable.model.errors import StoreError

from .boto import CREDENTIALS, NO_CREDENTIALS, code_of
from .dynamodb_table import DEFINITION, EXPIRES
from .dynamodb_url import Target

THREADS: Final = 16
PATIENCE: Final = 4  # times the timeout: of refusals for the moment, or of silence, until a request has failed
BATCH_GET: Final = 100
BATCH_WRITE: Final = 25
LONGEST_PAUSE: Final = 2.0

Item = dict[str, Any]  # in DynamoDB's JSON: {"v": {"N": "1"}}
Key = tuple[str, str]
A = TypeVar("A")
B = TypeVar("B")

_LATER: Final = frozenset(
    "ProvisionedThroughputExceededException ThrottlingException ThrottlingError RequestLimitExceeded "
    "ThrottledException TransactionConflictException TransactionConflict TransactionInProgressException "
    "ProvisionedThroughputExceeded InternalServerError ServiceUnavailable ReplicatedWriteConflictException".split()
)
_CANCELLED: Final = "TransactionCanceledException"
_MAYBE_DONE: Final = frozenset({"InternalServerError", "ServiceUnavailable", "TransactionInProgressException"})
_UNSENT: Final = (failures.EndpointConnectionError, failures.ConnectTimeoutError, failures.ProxyConnectionError)
_EXPLANATIONS: Final = {
    "ResourceNotFoundException": "does not exist: make it with `durable doctor --create` or with CloudFormation "
    "(`python -m durable.backends.dynamodb_table`), or check region and name",
    "AccessDeniedException": "refuses what this user asked: allow dynamodb:DescribeTable, GetItem, BatchGetItem, "
    "Query, PutItem, UpdateItem, DeleteItem, BatchWriteItem and ConditionCheckItem on the table and its indexes",
    "UnrecognizedClientException": f"does not know these credentials: {CREDENTIALS}",
    "InvalidSignatureException": f"refuses these credentials: {CREDENTIALS}",
    "IncompleteSignatureException": f"refuses these credentials: {CREDENTIALS}",
    "MissingAuthenticationTokenException": f"wants credentials: {CREDENTIALS}",
    "ExpiredTokenException": f"refuses credentials that have expired: {CREDENTIALS}",
    "ItemCollectionSizeLimitExceededException": "has 10 GB under one partition key, which holds the history of one "
    "execution or the rows of one partition; ids of facts leave it by TTL within 30 days; for more room use "
    "continue_as_new, or another workspace with more partitions=",
}


class Unknown(StoreError):
    """Sent, and not answered by one who knows: it may have been carried out."""


class Refused(Exception):
    """The condition of a single write does not hold; `item` is what is there, {} for nothing."""

    def __init__(self, item: Item) -> None:
        self.item = item


class Cancelled(Exception):
    """A transaction whose conditions do not hold: for each action the item as it is, or None where nothing is wrong."""

    def __init__(self, refusals: list[Item | None]) -> None:
        self.refusals = refusals


class _Later(Exception):
    """To be asked again."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Connection:
    """One table. Safe to use from several threads; `submit` and `map` run on threads of its own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._closed = threading.Event()
        config = Config(
            connect_timeout=target.timeout,
            read_timeout=target.timeout,
            max_pool_connections=2 * THREADS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            tcp_keepalive=True,
        )
        try:
            self.client = Session().client(
                "dynamodb", region_name=target.region, endpoint_url=target.endpoint, config=config
            )
        except (failures.BotoCoreError, ValueError) as error:
            raise explain(target, error) from error
        self.client.meta.events.register("before-parse.dynamodb", _refuse_cut_off)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dynamodb")

    def submit(self, call: Callable[[A], B], item: A) -> Future[B]:
        """Run it on a thread of the pool; for `result`. What runs there must not wait for the pool."""
        try:
            return self._pool.submit(call, item)
        except RuntimeError:  # of the pool, which has been shut down
            self._check_open()
            raise

    def result(self, future: Future[B]) -> B:
        """What came of it. Raises StoreError also where the store was closed before it began."""
        try:
            return future.result()
        except CancelledError:
            self._check_open()
            raise

    def map(self, call: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call it with each, at once. One alone needs no thread."""
        some = list(items)
        if len(some) < 2:
            return [call(item) for item in some]
        futures = [self.submit(call, item) for item in some]
        return [self.result(future) for future in futures]

    def describe(self) -> Item:
        """The table as DynamoDB describes it."""
        found: Item = self._ask("describe_table")["Table"]
        return found

    def get(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Those of these items that are there, read consistently."""
        found: dict[Key, Item] = {}
        unique = list(dict.fromkeys(keys))
        for first in range(0, len(unique), BATCH_GET):
            found.update(self._get(unique[first : first + BATCH_GET]))
        return found

    def _get(self, keys: Sequence[Key]) -> dict[Key, Item]:
        if len(keys) == 1:
            item = self._ask("get_item", Key=key_of(*keys[0]), ConsistentRead=True).get("Item")
            return {keys[0]: item} if item else {}
        found: dict[Key, Item] = {}
        wanted: Any = [key_of(*key) for key in keys]
        table = self.target.table
        while wanted:  # an answer ends at 16 MB
            answer = self._send("batch_get_item", {"RequestItems": {table: {"Keys": wanted, "ConsistentRead": True}}})
            for item in answer["Responses"].get(table, ()):
                found[item["pk"]["S"], item["sk"]["S"]] = item
            wanted = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys")
        return found

    def query(
        self,
        pk: str,
        low: str,
        high: str,
        *,
        index: str | None = None,
        sort: str = "sk",
        limit: int | None = None,
        backwards: bool = False,
    ) -> Iterator[Item]:
        """Items under one partition key whose sort key is from `low` to `high`, read consistently, page by page."""
        asked: dict[str, Any] = {
            "KeyConditionExpression": f"pk = :pk AND {sort} BETWEEN :low AND :high",
            "ExpressionAttributeValues": {":pk": {"S": pk}, ":low": {"S": low}, ":high": {"S": high}},
            "ConsistentRead": True,
            "ScanIndexForward": not backwards,
        }
        if index is not None:
            asked["IndexName"] = index
        if limit is not None:
            asked["Limit"] = limit
        if low > high:
            return
        while True:
            page = self._ask("query", **asked)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            asked["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def put(self, item: Item, condition: str = "", values: Item | None = None, mine: str = "") -> None:
        """Write one item. Raises Refused; not when what is there has `mine` as its token: then this was it."""
        self._write("put_item", mine, Item=item, **_conditioned(condition, values))

    def update(self, key: Key, change: str, condition: str, values: Item, mine: str = "") -> None:
        """Change one item. Raises Refused; as `put`."""
        self._write("update_item", mine, Key=key_of(*key), UpdateExpression=change, **_conditioned(condition, values))

    def delete(self, key: Key, condition: str = "", values: Item | None = None) -> None:
        """Delete one item. Raises Refused; not when nothing is there after an attempt that had no answer."""
        self._write("delete_item", None, Key=key_of(*key), **_conditioned(condition, values))

    def _write(self, verb: str, mine: str | None, **asked: Any) -> None:
        attempts = _Attempts()
        try:
            self._ask(verb, attempts, **asked)
        except Refused as refused:
            if not attempts.maybe:
                raise
            gone = mine is None and not refused.item
            if not gone and not (mine and refused.item.get("t", {}).get("S") == mine):
                raise

    def discard(self, keys: Sequence[Key]) -> None:
        """Delete these items, whatever is in them."""
        table = self.target.table
        for first in range(0, len(keys), BATCH_WRITE):
            wanted: Any = {
                table: [{"DeleteRequest": {"Key": key_of(*key)}} for key in keys[first : first + BATCH_WRITE]]
            }
            while wanted:
                wanted = self._send("batch_write_item", {"RequestItems": wanted}).get("UnprocessedItems")

    def transact(self, actions: Sequence[dict[str, Any]], token: str) -> None:
        """All or nothing, once for one token. Raises Cancelled when a condition does not hold, Unknown, StoreError."""
        self._send("transact_write_items", {"TransactItems": actions, "ClientRequestToken": token})

    def create_table(self) -> bool:
        """Make the table, and wait until it can be used; False when it was there."""
        try:
            self._ask("create_table", **DEFINITION)
        except StoreError as error:
            if code_of(error.__cause__) == "ResourceInUseException":
                return False
            raise
        try:
            self.client.get_waiter("table_exists").wait(
                TableName=self.target.table, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
            )
        except failures.BotoCoreError as error:
            raise explain(self.target, error) from error
        return True

    def expire(self) -> None:
        """See to it that what has expired is deleted, also where whoever made the table died before it was said."""
        found = self._ask("describe_time_to_live")["TimeToLiveDescription"]
        if found["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
            self._ask("update_time_to_live", TimeToLiveSpecification={"AttributeName": EXPIRES, "Enabled": True})

    def _ask(self, verb: str, attempts: _Attempts | None = None, **asked: Any) -> Any:
        return self._send(verb, {"TableName": self.target.table, **asked}, attempts)

    def _send(self, verb: str, asked: dict[str, Any], attempts: _Attempts | None = None) -> Any:
        attempts = attempts or _Attempts()
        retrying = Retrying(
            retry=retry_if_exception_type(_Later),
            wait=wait_random_exponential(multiplier=0.02, max=LONGEST_PAUSE),
            stop=stop_after_delay(PATIENCE * self.target.timeout),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._once, verb, asked, attempts)
        except _Later as later:
            if attempts.maybe:
                what = f"{self.target.where} did not answer ({type(later.error).__name__}); it may have been done"
                raise Unknown(what) from later.error
            raise explain(self.target, later.error) from later.error
        except StoreError as error:
            if attempts.maybe:
                raise Unknown(f"{error}; an earlier attempt may have been done") from error.__cause__
            raise

    def _pause(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _once(self, verb: str, asked: dict[str, Any], attempts: _Attempts) -> Any:
        self._check_open()
        try:
            return getattr(self.client, verb)(**asked)
        except failures.ClientError as error:
            raise self._meaning(error, attempts) from error
        except _UNSENT as error:
            raise _Later(error) from error
        except (failures.HTTPClientError, failures.ResponseStreamingError) as error:
            attempts.maybe = True
            raise _Later(error) from error
        except failures.BotoCoreError as error:
            raise explain(self.target, error) from error

    def _meaning(self, error: Any, attempts: _Attempts) -> Exception:
        """What an answer that is an error comes to."""
        code = code_of(error)
        if code == "ConditionalCheckFailedException":
            return Refused(error.response.get("Item", {}))
        if code == _CANCELLED:
            reasons = error.response.get("CancellationReasons", [])
            codes = {reason.get("Code", "None") for reason in reasons}
            if "ConditionalCheckFailed" in codes:
                return Cancelled(
                    [
                        reason.get("Item", {}) if reason.get("Code") == "ConditionalCheckFailed" else None
                        for reason in reasons
                    ]
                )
            # What DynamoDB has cancelled was not done, and may be asked again when every reason will pass.
            lasting = codes - {"None"} - _LATER
            return explain(self.target, error, ", ".join(sorted(lasting))) if lasting else _Later(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # Whatever stands before DynamoDB answers with the code that it likes, and may do so after it was done.
        maybe = code in _MAYBE_DONE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if maybe or code in _LATER or status == HTTPStatus.TOO_MANY_REQUESTS:
            attempts.maybe = attempts.maybe or maybe
            return _Later(error)
        return explain(self.target, error)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreError(f"{self.target.where}: this store was closed; open it again")

    def close(self) -> None:
        """Send no more. Idempotent."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.client.close()


def _refuse_cut_off(response_dict: Any, **_: Any) -> None:
    """An answer that was cut off is none. botocore reads it as an empty one: nothing of what was asked for is there."""
    if response_dict["status_code"] == HTTPStatus.OK:
        try:
            msgspec.json.decode(response_dict["body"], type=msgspec.Raw)
        except msgspec.DecodeError as error:
            raise failures.HTTPClientError(error=f"the answer was cut off: {error}") from error


class _Attempts:
    """Of one request. `maybe`: one of them may have been carried out although no answer said so."""

    maybe = False


def key_of(pk: str, sk: str) -> Item:
    """The key of an item."""
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _conditioned(condition: str, values: Item | None) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if condition:
        asked.update(ConditionExpression=condition, ReturnValuesOnConditionCheckFailure="ALL_OLD")
    if values:
        asked["ExpressionAttributeValues"] = values
    return asked


def explain(target: Target, error: Exception, reasons: str = "") -> StoreError:
    """What an error of boto3 means, naming table, region and remedy."""
    code = code_of(error)
    if code in _EXPLANATIONS:
        return StoreError(f"{target.where} {_EXPLANATIONS[code]}")
    if code in _LATER or (code == _CANCELLED and not reasons):
        return StoreError(f"{target.where} is throttled or contended ({code}), nothing was done; try again later")
    if code:
        message = error.response["Error"].get("Message", "") if isinstance(error, failures.ClientError) else ""
        return StoreError(f"{target.where} refused: {reasons or code}: {message}")
    if isinstance(error, NO_CREDENTIALS):
        return StoreError(f"{target.where} can't be asked without AWS credentials: {CREDENTIALS}")
    if isinstance(error, _UNSENT):
        return StoreError(f"{target.where} can't be reached; check the region, endpoint= and the network")
    return StoreError(f"{target.where} failed: {type(error).__name__}: {error}")
