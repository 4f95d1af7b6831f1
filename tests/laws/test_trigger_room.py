"""Event sources, where a worker has to do with the triggers for a while, or can't read them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from durable.engine.triggering import ASKED, CHANGED, begin
from durable.model.history import Event, Raw, encode_event, encode_events
from durable.model.names import TRIGGERS
from durable.ports import Append, Fact
from durable.runtime import requests as ask
from durable.triggers.asks import AddSource, Ask, encode_ask
from durable.triggers.changes import Source
from tests.laws.driven import NOW, Driven


def test_events_of_sources_are_left_to_whoever_can_read_the_triggers() -> None:
    """They are neither acknowledged nor taken for outcomes of activities, which go into an inbox."""
    driven = Driven()
    created = begin(NOW, lambda: "e", 1)
    newer = Append("e", 1, encode_events([Event(CHANGED, NOW, input=Raw(b'{"added": 7}'))]))
    driven.store.commit([created, replace(created, id="newer", expect=1, appends=(newer,))])
    asked: list[ask.Request] = []
    for kind in (ask.Settle, ask.Taken, ask.Deliver):
        driven.answers[kind] = asked.append
    driven.go_on(1, [ask.Assigned([("default", 0)], {"me"})])
    driven.go_on(3, [ask.Occurred([b"{}"], ask.SourceTag("orders", 1, 1))])
    assert asked == []


def test_sources_are_left_though_the_triggers_have_come_back_before_that_could_be_done() -> None:
    """What they brought in between nobody has taken: over the same connection it would not come again."""
    driven = Driven()
    source = Source("simulated://")
    add = Event(ASKED, NOW, input=encode_ask(Ask("token", (AddSource("orders", source),))))
    driven.store.commit([begin(NOW, lambda: "e", 1)])
    driven.store.deliver([Fact(TRIGGERS, 0, "ask", encode_event(add), NOW.timestamp())])
    served: list[Mapping[str, Source]] = []
    driven.answers[ask.Sources] = lambda request: served.append(request.wanted)
    mine = ask.Assigned([("default", 0)], {"me"})
    driven.go_on(2, [mine])
    assert served == [{"orders": source}]
    driven.reads = False
    driven.go_on(2, [ask.Assigned([], {"me"})])
    driven.go_on(2, [ask.Occurred([b"{}"], ask.SourceTag("orders", 1, 1))])
    driven.go_on(2, [mine])
    driven.reads = True
    driven.go_on(2)
    assert served == [{"orders": source}, {}, {"orders": source}]
