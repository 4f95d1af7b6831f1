"""`sqs://REGION/QUEUE`: events from a queue of Amazon's. sqs_url.py reads the URL, sqs_source.py asks the service."""

from __future__ import annotations

from typing import Final

from durable.model.errors import StoreError, TransportError
from durable.ports import EventSource

from .sqs_url import parse_url

EXTRA: Final = "pip install 'durable-orchestrations[sqs]'"


def open_source(url: str, workspace: str) -> EventSource:
    """Open a queue that is there. Raises TransportError with queue and remedy.

    All workspaces that receive from a queue share what is in it: Amazon knows no groups.
    """
    try:
        target = parse_url(url)
        try:
            # Only here: who does not use SQS need not have its client.
            from .sqs_source import SqsSource
        except ImportError as error:
            raise StoreError(f"{target.where} needs a client that is not installed: {EXTRA}") from error
    except StoreError as error:
        raise TransportError(str(error)) from error
    return SqsSource(target)
