"""`dynamodb://REGION/TABLE`: a workspace in DynamoDB, for many workers without a server of one's own.

dynamodb_url.py reads the URL, dynamodb_connection.py talks to DynamoDB, dynamodb_table.py says what the table looks
like, dynamodb_store.py and the files it names store, dynamodb_membership.py says who works. Signals reach no other
process (dynamodb_signals.py). Here the ports are put together. The table must be there: `create_dynamodb` makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable.model.errors import StoreError
from durable.ports import Backend, Membership, Signals, Store

from .dynamodb_items import Item, Names
from .dynamodb_table import SCHEMA, check_table
from .dynamodb_url import DEFAULT_PARTITIONS, Target, parse_url
from .url_parts import quote_part

if TYPE_CHECKING:
    from .dynamodb_connection import Connection
    from .dynamodb_signals import PollingSignals

EXTRA: Final = "pip install 'durable-orchestrations[dynamodb]'"


class DynamoBackend:
    """A `DynamoStore`, signals inside this process and membership in the same table."""

    def __init__(self, connection: Connection, store: Store, signals: PollingSignals, membership: Membership) -> None:
        self._connection = connection
        self._signals = signals
        self.store: Store = store
        self.signals: Signals = signals
        self.membership: Membership = membership

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._signals.close()
        self._connection.close()


def open_dynamodb(url: str, workspace: str) -> Backend:
    """Open or create a workspace. Raises StoreError with table and remedy, ValueError for an empty workspace."""
    target = parse_url(url)
    names = Names(quote_part(workspace, "workspace"))
    connection = _connect(target)
    from .dynamodb_membership import DynamoMembership
    from .dynamodb_signals import PollingSignals
    from .dynamodb_store import DynamoStore

    try:
        check_table(target, connection.describe())
        partitions = _open_workspace(connection, names, workspace)
    except BaseException:
        connection.close()
        raise
    return DynamoBackend(
        connection,
        DynamoStore(connection, names, partitions),
        PollingSignals(),
        DynamoMembership(connection, names),
    )


def create_dynamodb(url: str) -> bool:
    """Make the table that the URL names, billed on demand, with TTL; False when it was there. Raises StoreError.

    Where it was there, TTL is switched on should it be off.
    """
    target = parse_url(url)
    connection = _connect(target)
    try:
        made = connection.create_table()
        check_table(target, connection.describe())
        connection.expire()
    finally:
        connection.close()
    return made


def _connect(target: Target) -> Connection:
    try:
        # Only here: who does not use DynamoDB need not have its client.
        from .dynamodb_connection import Connection
    except ImportError as error:
        raise StoreError(f"a {target.where} needs a client that is not installed: {EXTRA}") from error
    return Connection(target)


def _open_workspace(connection: Connection, names: Names, workspace: str) -> int:
    """How many partitions it has; creates it with as many as the URL says."""
    from .dynamodb_connection import Refused

    target = connection.target
    pk, sk = key = names.about()
    found: Item = connection.get([key]).get(key, {})
    if not found:
        found = {
            "pk": {"S": pk},
            "sk": {"S": sk},
            "v": {"N": str(SCHEMA)},
            "m": {"N": str(target.partitions or DEFAULT_PARTITIONS)},
        }
        try:
            connection.put(found, "attribute_not_exists(sk)")
        except Refused as refused:
            found = refused.item
    schema, partitions = int(found["v"]["N"]), int(found["m"]["N"])
    if schema != SCHEMA:
        raise StoreError(
            f"{target.where}: workspace {workspace!a} was written by a newer version (schema {schema}, this one knows "
            f"{SCHEMA}); upgrade durable-orchestrations"
        )
    if target.partitions is not None and target.partitions != partitions:
        raise StoreError(
            f"{target.where}: workspace {workspace!a} was created with {partitions} partitions, which is for ever; the "
            f"URL says {target.partitions}: leave partitions= out, or use another workspace"
        )
    return partitions
