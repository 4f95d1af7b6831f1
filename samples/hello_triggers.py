"""Two triggers and two events say "Hello World!".

    python samples/hello_triggers.py

An event that nobody has taken yet waits for the worker, and `wait_for_trigger` for the last one: nothing sleeps.
"""

import durable
from durable import CloudEvent, EventPattern


@durable.action
def say(context: durable.TriggerContext, event: CloudEvent) -> None:
    print(event.get_data(), end="\n" if event.get_type() == "world" else "")


with durable.connect() as client, durable.Worker(client):
    for kind, text in (("hello", "Hello "), ("world", "World!")):
        client.add_trigger(kind, on=EventPattern(type=kind), action=say)
        client.publish(CloudEvent({"type": kind, "source": "hello_triggers.py"}, text))
    client.wait_for_trigger("world", timeout=10)
