"""`amqp://user:password@host:port/vhost`: CloudEvents over RabbitMQ 3.10 or newer, or another broker of AMQP 0-9-1 that
has quorum queues.

Here is only the door: what is behind it needs the extra `[rabbitmq]`, and is imported when somebody knocks.

    rabbitmq_url          what a URL says, and what it must not
    rabbitmq_connection   the pika thread and its two connections
    rabbitmq_publishing   confirms, returns, announcements
    rabbitmq_consuming    deliveries and acknowledgements
    rabbitmq_topology     queues and exchanges
    rabbitmq_keeper       reconnecting, and making everything again
    rabbitmq_transport    the port of those who work for a workspace
    rabbitmq_source       the port of a queue of somebody's, from which events come
"""

from __future__ import annotations

from durable.model.errors import TransportError
from durable.ports import EventSource, Transport

from .rabbitmq_url import Target, parse_source_url, parse_url


def open_rabbitmq(url: str, workspace: str) -> Transport:
    """Connect to the broker of an `amqp://` or `amqps://` URL; `?cacertfile=&certfile=&keyfile=` are for TLS.

    Once this has returned, lost connections are repaired in the background, for ever. Raises TransportError with host,
    port, virtual host and the remedy, within about ten seconds, and never with the password.
    """
    target = parse_url(url)
    try:
        from .rabbitmq_transport import RabbitTransport
    except ModuleNotFoundError as missing:
        raise _needs(target, missing) from None
    transport = RabbitTransport(target, workspace)
    transport.open()
    return transport


def open_source(url: str, workspace: str) -> EventSource:
    """A queue, `amqp://...?queue=orders`, perhaps bound to an exchange, `&exchange=NAME&routing_key=KEY`.

    A queue or exchange that is there is taken as it is; else it is made: a durable quorum queue, a durable topic
    exchange. What is published goes to that exchange with that key (the queue's name, unless it is given), or straight
    to the queue. As `open_rabbitmq` otherwise.
    """
    target, place = parse_source_url(url)
    try:
        from .rabbitmq_source import RabbitSource
    except ModuleNotFoundError as missing:
        raise _needs(target, missing) from None
    source = RabbitSource(target, place, workspace)
    source.open()
    return source


def _needs(target: Target, missing: ModuleNotFoundError) -> Exception:
    if missing.name not in ("pika", "tenacity"):
        return missing
    return TransportError(f"{target} needs the package {missing.name}: pip install 'durable-orchestrations[rabbitmq]'")
