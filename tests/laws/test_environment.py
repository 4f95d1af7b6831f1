"""An environment of a test whose threads wait at the same time."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from typing import Any

import pytest

import durable
from durable.testing import Environment


def test_what_another_thread_has_brought_to_its_end_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> Generator[Any, Any, str]:
        yield ctx.create_timer(60)
        return "done"

    with Environment(registry=app) as env:
        handle = env.client.start_orchestration(flow)
        jump = env._driver.jump

        def overtaken(limit: datetime | None) -> bool:
            """Between the look and the jump of one thread another one waits until the end."""
            monkeypatch.setattr(env._driver, "jump", jump)
            assert env.client.handle(handle.instance_id).result() == "done"
            return jump(limit)

        monkeypatch.setattr(env._driver, "jump", overtaken)
        assert handle.result() == "done"
