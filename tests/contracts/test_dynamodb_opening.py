"""Opening DynamoDB: URLs and tables that are refused, each with a remedy and without a secret; making the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

import durable
from durable.backends.dynamodb_backend import create_dynamodb, open_dynamodb
from durable.backends.dynamodb_table import cloudformation
from durable.backends.dynamodb_url import parse_url
from durable.model.errors import StoreError
from durable.ports import Query
from tests.product.command_line import Command
from tests.servers.dynamodb_faults import FaultyWay
from tests.servers.dynamodb_place import Opener
from tests.servers.dynamodb_server import REGION, DynamoServer
from tests.servers.process import HOST, free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pa55w0rd"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dynamodb:eu-central-1/durable", "not the URL"),
        ("dynamodb://[x/durable", "not the URL"),
        (f"dynamodb://key:{SECRET}@eu-central-1/durable", "no user and no password"),
        ("dynamodb:///durable", "names no region"),
        ("dynamodb://EU/durable", "names no region"),
        ("dynamodb://eu-central-1", "names no table"),
        ("dynamodb://eu-central-1/ab", "names no table"),
        ("dynamodb://eu-central-1/../x", "names no table"),
        ("dynamodb://eu-central-1/a/b", "names no table"),
        ("dynamodb://eu-central-1/durable?colour=red", "unknown parameter colour .*known: endpoint"),
        (f"dynamodb://eu-central-1/durable?{SECRET}%20=1", r"unknown parameter \(not a plain word\)"),
        (f"dynamodb://eu-central-1/durable?endpoint=http://u:{SECRET}@h", "without a user|no user"),
        ("dynamodb://eu-central-1/durable?endpoint=h:80", "must be like http"),
        ("dynamodb://eu-central-1/durable?endpoint=http://h/x", "end with its host"),
        ("dynamodb://eu-central-1/durable?partitions=0", "number from 1"),
        ("dynamodb://eu-central-1/durable?timeout=0", "seconds above 0"),
        ("dynamodb://eu-central-1/durable?timeout=1&timeout=2", "twice"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        open_dynamodb(url, "w")
    assert SECRET not in str(caught.value)


def test_what_a_url_says() -> None:
    target = parse_url("dynamodb://us-gov-west-1/My.Table-1?endpoint=https%3A%2F%2Fh:1/&partitions=4&timeout=2.5")
    assert (target.region, target.table, target.endpoint) == ("us-gov-west-1", "My.Table-1", "https://h:1")
    assert (target.partitions, target.timeout) == (4, 2.5)
    assert target.where == "DynamoDB table My.Table-1 in us-gov-west-1 at h:1"
    plain = parse_url("dynamodb://eu-central-1/durable")
    assert (plain.endpoint, plain.partitions) == (None, None)


@pytest.mark.parametrize("workspace", ["", "\udc80"])
def test_workspaces_that_are_no_names(workspace: str) -> None:
    with pytest.raises(ValueError, match="workspace"):
        open_dynamodb("dynamodb://eu-central-1/durable", workspace)


def test_a_table_that_is_not_there(dynamodb_server: DynamoServer) -> None:
    with pytest.raises(StoreError, match=r"table missing in eu-central-1 at .* does not exist: .*doctor --create"):
        open_dynamodb(dynamodb_server.url(table="missing"), "w")


def test_a_table_of_somebody_else(dynamodb_server: DynamoServer) -> None:
    import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed

    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    client.create_table(
        TableName="theirs",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    url = dynamodb_server.url(table="theirs")
    for use in (lambda: open_dynamodb(url, "w"), lambda: create_dynamodb(url)):
        with pytest.raises(StoreError, match="was not made for this store"):
            use()


@pytest.mark.parametrize("verb", ["DescribeTable", "UpdateTimeToLive"])
def test_a_table_whose_maker_died_half_way_is_finished_by_the_next(dynamodb_server: DynamoServer, verb: str) -> None:
    import boto3

    table = f"half-{verb}"
    way = FaultyWay(dynamodb_server.port)
    try:
        url = dynamodb_server.url(table=table, port=way.port)
        way.refuse(verb, "AccessDeniedException")
        with pytest.raises(StoreError, match=f"table {table} in"):
            create_dynamodb(url)
        assert not create_dynamodb(url)
        assert not create_dynamodb(url)
    finally:
        way.close()
    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    assert client.describe_time_to_live(TableName=table)["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": "expires",
    }


@pytest.mark.usefixtures("dynamodb_server")
def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(
        StoreError, match=rf"table durable in {REGION} at {HOST}:{port} can't be reached; check the reg"
    ):
        open_dynamodb(f"dynamodb://{REGION}/durable?endpoint=http://{HOST}:{port}&timeout=0.1", "w")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("UnrecognizedClientException", "does not know these credentials: .*AWS_PROFILE"),
        ("InvalidSignatureException", "refuses these credentials"),
        ("ExpiredTokenException", "have expired"),
        ("AccessDeniedException", "allow dynamodb:DescribeTable"),
    ],
)
def test_credentials_that_are_refused(dynamodb_server: DynamoServer, code: str, said: str) -> None:
    way = FaultyWay(dynamodb_server.port)
    try:
        way.refuse("DescribeTable", code)
        with pytest.raises(StoreError, match=said):
            open_dynamodb(dynamodb_server.url(port=way.port), "w")
        assert way.asked["DescribeTable"] == 1
    finally:
        way.close()


def test_no_credentials(dynamodb_server: DynamoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"can't be asked without AWS credentials: .*AWS_PROFILE"):
        open_dynamodb(dynamodb_server.url(), "w")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="without AWS credentials"):
        open_dynamodb(dynamodb_server.url(), "w")


def test_a_client_that_is_not_installed() -> None:
    for missing in ("boto3", "tenacity"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from durable.backends.dynamodb_backend import open_dynamodb\n"
            "open_dynamodb('dynamodb://eu-central-1/durable', 'w')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert "StoreError" in done.stderr
        assert "pip install 'durable-orchestrations[dynamodb]'" in done.stderr


def test_partitions_are_for_ever(open_table: Opener) -> None:
    assert open_table().store.partitions == 16
    with pytest.raises(StoreError, match=r"was created with 16 partitions.*URL says 3"):
        open_table("&partitions=3")
    assert open_table("&partitions=3", fresh=True).store.partitions == 3


# Making the table.


def test_doctor_makes_the_table_once(dynamodb_server: DynamoServer, tmp_path: Path) -> None:
    command = Command(tmp_path)
    url = dynamodb_server.url(table=f"new-{uuid4().hex[:8]}")
    said = command("doctor", "--url", url)
    assert said.returncode == 4
    assert "doctor --create" in said.stderr
    said = command("doctor", "--create", "--url", url)
    assert said.returncode == 0, said.stderr
    assert "made" in said.stdout
    assert "nothing needs attention" in said.stdout
    assert "made" not in command.says("doctor", "--create", "--url", url).splitlines()[0]
    with durable.connect(url) as client:
        assert client.list_orchestrations().items == []


def test_the_template_is_shipped_as_it_is_made() -> None:
    text = (ROOT / "deploy" / "dynamodb.json").read_text()
    assert text == cloudformation()
    table = json.loads(text)["Resources"]["Table"]
    assert table["DeletionPolicy"] == "Retain"
    assert table["Properties"]["BillingMode"] == "PAY_PER_REQUEST"
    command = [sys.executable, "-m", "durable.backends.dynamodb_table"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text


def test_what_the_template_makes_can_be_used(dynamodb_server: DynamoServer) -> None:
    import boto3

    properties = json.loads(cloudformation())["Resources"]["Table"]["Properties"]
    del properties["TimeToLiveSpecification"], properties["PointInTimeRecoverySpecification"]
    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    client.create_table(**{**properties, "TableName": "formed"})
    backend = open_dynamodb(dynamodb_server.url(table="formed"), "w")
    assert backend.store.find(Query()).items == []
    backend.close()
