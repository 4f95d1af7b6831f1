"""A worker of triggers as a program of its own, until it is killed: python trigger_work.py URL EVENTS WORKSPACE"""

from __future__ import annotations

import sys

import durable

app = durable.Registry()


@app.action(name="count")
def count(context: durable.TriggerContext, event: durable.CloudEvent) -> None:
    """How often each trigger has fired, and for which event last."""
    context.workspace[context.trigger_id] = [context.workspace.get(context.trigger_id, [0])[0] + 1, event.get_id()]


if __name__ == "__main__":
    url, events, workspace = sys.argv[1:]
    with durable.connect(url, events=events or None, workspace=workspace) as client:
        durable.Worker(client, registry=app).run()
