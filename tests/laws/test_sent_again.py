"""An activity of which nothing is heard is sent again, as what may be a second copy, ever less often."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import durable
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import Published
from durable.runtime import requests as ask
from durable.runtime.serving import Patience, Serving
from durable.runtime.wire import read_work
from tests.laws.driven import NOW, Driven, Registered

SENT, AT_MOST = 60.0, 300.0
HOLD = 60.0  # a worker holds what it has sent itself for a while, then lets go of it


def test_what_is_never_answered_is_sent_again_after_twice_as_long_each_time_up_to_a_limit() -> None:
    app = durable.Registry()

    @app.orchestrator
    def calls(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
        yield ctx.call_activity("lost")

    patience = Patience(sent=SENT, sent_at_most=AT_MOST)
    driven = Driven(Serving(by_mail=True, patience=patience), Registered(app))
    sent: list[tuple[float, bool]] = []

    def publish(request: ask.Publish) -> list[Published]:
        sent.extend((driven.now.timestamp(), read_work(message.body).resent) for message in request.messages)
        return [Published.CONFIRMED] * len(request.messages)

    driven.answers[ask.Publish] = publish
    driven.answers[ask.Receive] = lambda request: [False] * len(request.prefetch)
    driven.go_on(1, [ask.Assigned([("default", 0)], ["me"])])
    started = Event(h.EXECUTION_STARTED, NOW, name="calls", input=Raw(b"null"), execution_id="e", seed="s")
    driven.store.commit([create("i", started, 1, "c")])
    driven.go_on(400)  # each of them five seconds at most
    assert len(sent) >= 5
    del sent[5:]
    times = [at for at, _ in sent]
    waited = [after - before for before, after in pairwise(times)]
    for seconds, patient in zip(waited, [SENT, 2 * SENT, 4 * SENT, AT_MOST], strict=True):
        assert patient <= seconds < patient + HOLD
    assert [resent for _, resent in sent] == [False, True, True, True, True]
