"""What goes out without pika's encoders is what pika would have sent."""

from __future__ import annotations

import pytest
from pika import frame  # type: ignore[import-untyped]  # pika 1.4 has no py.typed

from durable.backends.rabbitmq_publishing import _header, _properties
from durable.ports import Message


@pytest.mark.parametrize("text", ["a" * 80, "ä" * 20, "ä" * 127, "ä" * 128, "a" * 255, "a" * 256, ""])
@pytest.mark.parametrize("size", [0, 500])
def test_a_content_header_is_the_one_that_pika_makes(text: str, size: int) -> None:
    message = Message("q", text, "durable.task-completed", b"x" * size)
    assert _header(3, message) == frame.Header(3, size, _properties(message)).marshal()
