"""`s3://BUCKET/PREFIX`: large payloads in a bucket. s3_url.py reads the URL, s3_blobs.py talks to the server."""

from __future__ import annotations

from typing import Final

from durable.model.errors import StoreError
from durable.ports import Blobs

from .s3_url import parse_url
from .url_parts import quote_part

EXTRA: Final = "pip install 'durable-orchestrations[s3]'"


def open_s3(url: str, workspace: str) -> Blobs:
    """Open a place in a bucket that is there. Raises StoreError with bucket and remedy."""
    target = parse_url(url)
    try:
        # Only here: who does not use S3 need not have its client.
        from .s3_blobs import S3Blobs
    except ImportError as error:
        raise StoreError(f"{target.where} needs a client that is not installed: {EXTRA}") from error
    return S3Blobs(target, quote_part(workspace, "workspace"))
