"""The one table: its keys, its two indexes, how it is made and checked.

`python -m durable.backends.dynamodb_table` prints a CloudFormation template of it.

    <w>/s            s                      the workspace: schema, partitions
    <w>/i/<instance> m                      meta: version, commit, execution, summary; after a purge what is remembered
                     f/<purges>/<version>   an execution before the current one
    <w>/h/<execution> <start>/<chunk>       events, in chunks
                     ~<turn>/<number>       what of a split turn is still to be written
    <w>/r/<partition> <row key>             a work row; a fact that was taken leaves its id there until it expires
    <w>/o/<number>   <chunk>                a body or summary too large for its item
    <w>/l/<partition> <created><instance>   the listing; written once a life, never changed
    <w>/p/<partition> <execution>           a purge, or an execution forgotten, whose pieces are still to be cleared
    <w>/w            <incarnation>          a worker's sign of life

<w> is the workspace, percent-encoded. The indexes are local ones, because those can be read consistently: `due` has the
work rows of a partition by group and due time, `inbox` the rows of inboxes by instance and order of delivery. They hold
keys only, which is the cheapest there is to write. Local indexes bound what shares a partition key to 10 GB and 1,000
write units a second; here that is one execution, one instance, or the work rows of one partition.
"""

from __future__ import annotations

import json
from typing import Any, Final

from durable.model.errors import StoreError

from .dynamodb_url import Target

SCHEMA: Final = 1
DUE: Final = "due"
INBOX: Final = "inbox"
EXPIRES: Final = "expires"

_INDEXES: Final = {DUE: "d", INBOX: "n"}


def _keys(sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


DEFINITION: Final[dict[str, Any]] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "d", "n")],
    "KeySchema": _keys("sk"),
    "LocalSecondaryIndexes": [
        {"IndexName": name, "KeySchema": _keys(sort), "Projection": {"ProjectionType": "KEYS_ONLY"}}
        for name, sort in _INDEXES.items()
    ],
}


def cloudformation() -> str:
    """A CloudFormation template of the table (parameter TableName), as JSON."""
    properties = {
        "TableName": {"Ref": "TableName"},
        **DEFINITION,
        "TimeToLiveSpecification": {"AttributeName": EXPIRES, "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The table of durable-orchestrations: dynamodb://REGION/TABLE",
        "Parameters": {"TableName": {"Type": "String", "Default": "durable"}},
        "Resources": {
            "Table": {
                "Type": "AWS::DynamoDB::Table",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": properties,
            }
        },
        "Outputs": {"TableName": {"Value": {"Ref": "Table"}}, "TableArn": {"Value": {"Fn::GetAtt": ["Table", "Arn"]}}},
    }
    return json.dumps(template, indent=2) + "\n"


def check_table(target: Target, found: dict[str, Any]) -> None:
    """The table is one of ours and can be used. Raises StoreError."""
    if found["TableStatus"] not in ("ACTIVE", "UPDATING"):
        raise StoreError(f"{target.where} is {found['TableStatus']}; try again when it is ACTIVE")
    indexes = {index["IndexName"]: index["KeySchema"] for index in found.get("LocalSecondaryIndexes", ())}
    if found["KeySchema"] != _keys("sk") or any(indexes.get(name) != _keys(sort) for name, sort in _INDEXES.items()):
        raise StoreError(
            f"{target.where} was not made for this store: its keys or indexes are others; name another table, and make "
            "it with: durable doctor --create"
        )


if __name__ == "__main__":
    print(cloudformation(), end="")
