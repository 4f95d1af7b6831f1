"""`amqp://user:password@host:port/vhost`: CloudEvents over RabbitMQ 3.10 or newer, or another broker of AMQP 0-9-1 that
has quorum queues.

Here is only the door: what is behind it needs the extra `[rabbitmq]`, and is imported when somebody knocks.

    rabbitmq_url          what a URL says, and what it must not
    rabbitmq_connection   the pika thread and its two connections
    rabbitmq_publishing   confirms, returns, announcements
    rabbitmq_consuming    deliveries and acknowledgements
    rabbitmq_topology     queues and exchanges
    rabbitmq_keeper       reconnecting, and making everything again
    rabbitmq_transport    the port
"""

from __future__ import annotations

from durable.model.errors import TransportError
from durable.ports import Transport

from .rabbitmq_url import parse_url


def open_rabbitmq(url: str, workspace: str) -> Transport:
    """Connect to the broker of an `amqp://` or `amqps://` URL; `?cacertfile=&certfile=&keyfile=` are for TLS.

    Once this has returned, lost connections are repaired in the background, for ever. Raises TransportError with host,
    port, virtual host and the remedy, within about ten seconds, and never with the password.
    """
    target = parse_url(url)
    try:
        from .rabbitmq_transport import RabbitTransport
    except ModuleNotFoundError as missing:
        if missing.name not in ("pika", "tenacity"):
            raise
        raise TransportError(
            f"{target} needs the package {missing.name}: pip install 'durable-orchestrations[rabbitmq]'"
        ) from None
    transport = RabbitTransport(target, workspace)
    transport.open()
    return transport
