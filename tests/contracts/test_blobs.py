"""The public contract on a folder and on S3, and their own laws: what is refused, and what an error says."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed
import pytest

from durable.backends.blob_folder import open_folder
from durable.backends.s3 import open_s3
from durable.backends.s3_url import parse_url
from durable.model.errors import StoreError
from durable.ports import Blobs
from durable.testing import BlobsContract
from durable.testing.blobs_contract import named, part
from tests.servers.dynamodb_server import REGION, DynamoServer
from tests.servers.process import HOST, free_port
from tests.servers.proxy import Proxy

SECRET = "pa55w0rd"
BUCKET = "blobs-of-the-tests"


class TestFolder(BlobsContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "blobs"

    def open_blobs(self, workspace: str) -> Blobs:
        return open_folder(f"file://{self.folder}", workspace)

    def test_others_may_not_look_into_it(self, blobs: Blobs, workspace: str) -> None:
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)
        [folder] = self.folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        [file] = [path for path in folder.rglob("*") if path.is_file()]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.relative_to(folder).as_posix() == next(iter(put))

    def test_the_folders_of_what_was_deleted_go_too(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"1", b"2")
        blobs.put(put)
        blobs.delete(list(put))
        [folder] = self.folder.iterdir()
        assert list(folder.iterdir()) == []

    def test_what_could_not_be_written_takes_no_room(self, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"No space left on device.* have room"):
                blobs.put(named(f"{part()}/{part()}", b"1"))
        assert not [path for path in self.folder.rglob("*") if path.is_file()]

    def test_a_file_in_the_place_of_a_folder_is_an_error(self, blobs: Blobs) -> None:
        [workspace] = self.folder.iterdir()
        owner = part()
        (workspace / owner).write_bytes(b"")
        with pytest.raises(StoreError, match="File exists"):
            blobs.put(named(f"{owner}/{part()}", b"1"))

    @pytest.mark.parametrize("trouble", [errno.ESTALE, errno.EIO, errno.EMFILE])
    def test_a_folder_in_trouble_is_no_reason_of_one_blob(
        self, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, trouble: int
    ) -> None:
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)

        def fails(path: object, flags: int) -> int:
            raise OSError(trouble, os.strerror(trouble))

        monkeypatch.setattr(os, "open", fails)
        with pytest.raises(StoreError, match=re.escape(os.strerror(trouble))):
            blobs.get(list(put))

    def test_a_folder_that_is_taken_away_because_it_is_empty(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"1")
        beside = f"{next(iter(put))[:66]}{'0' * 64}"

        def take_away() -> None:
            for _ in range(1_500):
                blobs.delete([beside])

        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(take_away) for _ in range(2)]
            while not all(other.done() for other in others):
                blobs.put(put)
                assert blobs.get(list(put)) == [b"1"]
                blobs.delete(list(put))
            assert [other.result() for other in others] == [None, None]

    def test_what_a_kill_left_half_written_is_found_and_goes(self, blobs: Blobs) -> None:
        owner = part()
        put = named(f"{owner}/{part()}", b"1")
        blobs.put(put)
        [file] = [path for path in self.folder.rglob("*") if path.is_file()]
        file.with_name(f"{file.name}.{part()}").write_bytes(b"ha")
        names = [blob.name for blob in blobs.names([f"{owner}/"])]
        assert len(names) == 2
        blobs.delete(names)
        assert [path for path in self.folder.rglob("*") if path.is_file()] == []

    def test_no_link_is_followed_and_nothing_else_is_touched(self, blobs: Blobs, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)
        [file] = [path for path in self.folder.rglob("*") if path.is_file()]
        file.unlink()
        file.symlink_to(secret)
        (file.parent / "README").write_text("ours")
        [why] = blobs.get(list(put))
        assert isinstance(why, str)
        assert why.startswith("can't be read")
        blobs.delete([blob.name for blob in blobs.names([next(iter(put))[:33]])])
        assert secret.read_bytes() == b"secret"
        assert (file.parent / "README").exists()

    @pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "", "a/b/c", f"{'0' * 32}/../{'0' * 64}"])
    def test_what_is_no_name_is_refused(self, blobs: Blobs, name: str) -> None:
        for call in (lambda: blobs.put({name: b""}), lambda: blobs.get([name]), lambda: blobs.delete([name])):
            with pytest.raises(StoreError, match="is not the name of a blob"):
                call()

    def test_a_folder_that_is_away_is_an_error_and_not_a_missing_blob(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)
        away = self.folder.rename(self.folder.with_name("away"))
        with pytest.raises(StoreError, match=r"folder for blobs .* can't be used \(No such file"):
            blobs.get(list(put))
        away.rename(self.folder)
        assert blobs.get(list(put)) == [b"1"]


@pytest.mark.parametrize(
    "url",
    [
        "file:/srv/blobs",
        "file://",
        "file://host/srv/blobs",
        f"file://me:{SECRET}@host/srv",
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "file:///srv/%00",
        "file:///srv/blobs?mode=ro",
        "file:///srv/blobs#x",
        "s3://bucket",
    ],
)
def test_urls_of_folders_that_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"write file:///srv/blobs") as caught:
        open_folder(url, "w")
    assert SECRET not in str(caught.value)


def test_a_folder_that_can_t_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't be used \(Not a directory\): it must be there"):
        open_folder(f"file://{tmp_path}/file", "w")
    with pytest.raises(ValueError, match="workspace"):
        open_folder(f"file://{tmp_path}", "")


def test_a_workspace_never_leaves_the_folder(tmp_path: Path) -> None:
    open_folder(f"file://{tmp_path}/blobs", "..")
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["%2E%2E"]
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]


# ---- S3


@pytest.fixture(scope="module")
def bucket(dynamodb_server: DynamoServer) -> Iterator[str]:
    client = boto3.client("s3", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield dynamodb_server.bucket(BUCKET)
    client.close()


class TestS3(BlobsContract):
    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        self.url = bucket

    def open_blobs(self, workspace: str) -> Blobs:
        return open_s3(self.url, workspace)

    @pytest.mark.slow
    def test_more_than_a_page(self, blobs: Blobs) -> None:
        owner = part()
        put = named(f"{owner}/{part()}", *(b"%d" % number for number in range(2_100)))
        blobs.put(put)
        assert {blob.name for blob in blobs.names([f"{owner}/"])} == put.keys()
        blobs.delete(list(put))
        assert blobs.names([f"{owner}/"]) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:bucket/x", "not the URL"),
        ("s3://[x/y", "not the URL"),
        (f"s3://key:{SECRET}@bucket/x", "no user and no password"),
        ("s3:///x", "names no bucket"),
        ("s3://UPPER/x", "names no bucket"),
        ("s3://bucket/a//b", "prefix"),
        (f"s3://bucket/{'a' * 201}", "prefix"),
        ("s3://bucket/x?colour=red", "unknown parameter colour .*known: endpoint"),
        (f"s3://bucket/x?{SECRET}%20=1", r"unknown parameter \(not a plain word\)"),
        (f"s3://bucket/x?endpoint=http://u:{SECRET}@h", "without a user|no user"),
        ("s3://bucket/x?endpoint=h:80", "must be like http"),
        ("s3://bucket/x?endpoint=http://h/x", "end with its host"),
        ("s3://bucket/x?region=Mars", "must be like eu-central-1"),
        ("s3://bucket/x?timeout=0", "seconds above 0"),
        ("s3://bucket/x?timeout=1&timeout=2", "twice"),
    ],
)
def test_urls_of_buckets_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        open_s3(url, "w")
    assert SECRET not in str(caught.value)


def test_what_the_url_of_a_bucket_says() -> None:
    target = parse_url("s3://my.bucket/a/b?endpoint=https%3A%2F%2Fh:1/&region=eu-central-1&timeout=2.5")
    assert tuple(target) == ("my.bucket", "a/b/", "eu-central-1", "https://h:1", 2.5)
    assert target.where == "S3 bucket my.bucket at h:1"
    for short in ("s3://bucket", "s3://bucket/"):
        assert parse_url(short) == ("bucket", "", None, None, 5.0)


def test_a_bucket_that_is_not_there(dynamodb_server: DynamoServer) -> None:
    with pytest.raises(StoreError, match=r"S3 bucket missing at .* does not exist: make it"):
        open_s3(dynamodb_server.bucket("missing"), "w")


def test_a_bucket_that_nobody_serves(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"S3 bucket b-1 at .* can't be reached"):
        open_s3(f"s3://b-1?region={REGION}&endpoint=http://{HOST}:{free_port()}", "w")


def test_without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="can't be asked without AWS credentials"):
        open_s3(bucket, "w")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "NoSuchKey", "is missing in S3 bucket b-1 at"),
        (403, "AccessDenied", "is missing in S3 bucket b-1 at .*, or is not for this user"),
        (400, "KMS.DisabledException", r"can't be read from S3 bucket b-1 at .* \(KMS.DisabledException\)"),
        (404, "NoSuchBucket", None),
        (400, "ExpiredToken", None),
        (503, "SlowDown", None),
        (500, "InternalError", None),
    ],
)
def test_what_one_object_cannot_give_is_a_reason(status: int, code: str, said: str | None, bucket: str) -> None:
    """A reason holds up one instance; an error holds up whoever needs the bucket."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>so</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((HOST, 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        blobs = open_s3(f"s3://b-1?region={REGION}&endpoint=http://{HOST}:{server.server_port}", "w")
        name = next(iter(named(f"{part()}/{part()}", b"1")))
        if said is None:
            with pytest.raises(StoreError, match="S3 bucket b-1 at"):
                blobs.get([name])
        else:
            [why] = blobs.get([name])
            assert isinstance(why, str)
            assert re.match(said, why)
        blobs.close()
        server.shutdown()


def test_a_bucket_that_was_closed_says_so(bucket: str) -> None:
    blobs = open_s3(bucket, "w")
    blobs.close()
    with pytest.raises(StoreError, match="was closed"):
        blobs.get([*named(f"{part()}/{part()}", b"1", b"2")])


def test_a_bucket_that_goes_silent_is_an_error_in_bounded_time(dynamodb_server: DynamoServer, bucket: str) -> None:
    proxy = Proxy(dynamodb_server.port)
    blobs = open_s3(dynamodb_server.bucket(BUCKET, "&timeout=0.1", proxy.port), "w")
    put = named(f"{part()}/{part()}", b"1" * 1_000)
    blobs.put(put)
    calls = (
        lambda: blobs.get(list(put)),
        lambda: blobs.names([f"{part()}/"]),
        lambda: blobs.delete(list(put)),
        lambda: blobs.put(put),
    )
    for heard, tried in ((0, calls), (100, calls[:3])):  # a status line that came says that it was put
        for call in tried:
            proxy.answer_bytes(None)
            blobs.put(put)
            proxy.answer_bytes(heard)
            with pytest.raises(StoreError, match=f"S3 bucket {BUCKET} at .* can't be reached, or does not answer"):
                call()
    proxy.answer_bytes(None)
    blobs.put(put)
    assert blobs.get(list(put)) == list(put.values())
    blobs.close()
    proxy.close()
