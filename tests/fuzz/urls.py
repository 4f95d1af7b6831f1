"""Parsers of URLs: of stores, brokers, event sources, blobs. None says a password, whatever is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable.app.plugins import checked_source_url, events_address, open_backend
from durable.backends import blob_folder, dynamodb_url, rabbitmq_url, redis_url, s3_url, sqlite_file, sqs_url
from durable.cli import session
from durable.model.errors import StoreError, TransportError

from .harness import Parser, Wrong

SECRET: Final = "s3cr3t"
_SERVERS: Final = (
    "redis://user:s3cr3t@localhost:6379/3?prefix=a&partitions=4&allow_unsafe=1&socket_timeout=2.5",
    "rediss://:s3cr3t@[::1]:6380/0?ssl_ca_certs=/ca.pem&ssl_check_hostname=no&ssl_password=s3cr3t",
    "redis+cluster://user:s3cr3t@a:1,b:2,[::1]:3/0?prefix=x",
    "redis://localhost/0?stream=orders&group=g",
    "amqp://user:s3cr3t@localhost:5672/vhost",
    "amqps://us%40er:s3cr3t@[::1]/%2F?cacertfile=/nowhere.pem",
    "amqp://u:s3cr3t@h/v?queue=q&exchange=e&routing_key=k",
    "sqs://eu-central-1/orders.fifo?endpoint=https://127.0.0.1:8000&timeout=2",
    "dynamodb://eu-central-1/durable?endpoint=http://127.0.0.1:8000&partitions=4&timeout=1.5",
    "s3://bucket/pre/fix?region=eu-central-1&endpoint=https://h:1",
    "sqlite:////tmp/a%20b.db?synchronous=normal",
    "sqlite:///.durable/durable.db",
    "file:///srv/blobs",
    "memory://name",
    "env:QUEUE_URL",
)
_CORPUS: Final = [url.encode() for url in _SERVERS]


def _url(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")  # as from an environment variable or the command line


def _read_by(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Law: neither what is refused, nor what it is shown as, has the password; what is in the scheme is none."""

    def read(data: bytes) -> Any:
        url = _url(data)
        if url.startswith(("sqlite:", "file:")):  # they have no password, but perhaps what looks like one
            return parse(url)
        try:
            target = parse(url)
        except Exception as error:
            if SECRET in url.partition(":")[0]:
                raise
            seen: BaseException | None = error
            while seen is not None:
                if SECRET in str(seen):
                    raise Wrong(f"refused with the password: {seen}") from error
                seen = seen.__cause__ or seen.__context__
            raise
        shown = f"{target!r} {target}"
        if f":{SECRET}@" in shown:
            raise Wrong(f"accepted, and shown with the password: {target!r}")
        return target

    return read


def _shown(url: str) -> str:
    """What `durable doctor` and errors show of any URL."""
    made = session.Session(session.Everywhere(url, url, "default", False, False))
    shown = f"{made.store} {made.broker}"
    if not shown.isprintable():
        raise Wrong(f"not printable: {shown!a}")
    return shown + made.without_secrets(f"it said {url}")


def _stored(url: str) -> str:
    """What stands in the workspace for everybody to see."""
    stored = checked_source_url(url)
    if f"password={SECRET}" in stored:
        raise Wrong("accepted with a password among its parameters")
    return stored


def _opener(url: str) -> None:
    """As far as finding who serves it: no scheme of ours, so nothing is opened."""
    open_backend(f"x{url}", "default")


def _address(url: str) -> str:
    return events_address(url, is_broker=True)


def _parser(parse: Callable[[str], Any], *refuses: type[Exception]) -> Parser:
    return Parser(_CORPUS, _read_by(parse), refuses)


PARSERS: Final = {
    "url-redis": _parser(redis_url.parse_url, StoreError),
    "url-redis-source": _parser(redis_url.parse_source_url, StoreError),
    "url-rabbitmq": _parser(rabbitmq_url.parse_url, TransportError),
    "url-rabbitmq-source": _parser(rabbitmq_url.parse_source_url, TransportError),
    "url-sqs": _parser(sqs_url.parse_url, StoreError),
    "url-dynamodb": _parser(dynamodb_url.parse_url, StoreError),
    "url-s3": _parser(s3_url.parse_url, StoreError),
    "url-sqlite": _parser(sqlite_file.parse_url, StoreError),
    "url-blob-folder": _parser(blob_folder._path, StoreError),
    "url-event-source": _parser(_stored, ValueError),
    "url-nobody-serves": _parser(_opener, ValueError),
    "url-shown": _parser(_shown),
}
