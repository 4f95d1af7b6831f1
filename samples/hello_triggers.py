"""Two triggers and two events: prints "Hello World!"."""

import durable
from durable import CloudEvent, EventPattern


@durable.action
def say(context: durable.TriggerContext, event: CloudEvent) -> None:
    print(event.get_data(), end="\n" if event.get_type() == "world" else "")


with durable.connect() as client, durable.Worker(client):
    for kind, text in (("hello", "Hello "), ("world", "World!")):
        client.add_trigger(kind, on=EventPattern(type=kind), action=say, transient=True)
        client.publish(CloudEvent({"type": kind, "source": "hello_triggers.py"}, text))
    client.wait_for_trigger("world", timeout=10)
