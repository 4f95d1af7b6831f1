"""An activity worker without `durable`: nothing but pika and the CloudEvents SDK. Any language could do the same.

    pip install pika cloudevents
    python samples/foreign_worker.py amqp://guest:guest@localhost:5672/ [WORKSPACE]

It serves the activity `shout` of the queue `foreign`. An orchestrator, which lives with a `durable worker`, calls it:

    text = yield ctx.call_activity(durable.activity_ref("shout", returns=str, queue="foreign"), "hello")

Invocations wait in the queue `durable.<workspace>.work.<queue>`. An outcome goes to the queue that its invocation names
as `replyqueue`, and only when the broker has confirmed it is the invocation acknowledged: what this program does not
finish comes again, here or elsewhere, and an outcome that was sent twice counts once. Inputs above 1 MiB don't travel.
"""

import sys
from typing import Any

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent


def shout(text: str) -> str:
    return text.upper() + "!"


def outcome(invocation: CloudEvent) -> CloudEvent:
    call: Any = invocation.get_data()
    data = {key: call[key] for key in ("instance_id", "execution_id", "task_id", "attempt")}
    try:
        data["result"] = {"shout": shout}[call["name"]](call["input"])
    except Exception as error:
        data["failure"] = {"type": type(error).__name__, "message": str(error)}
    attributes = {
        "type": "durable.task-failed" if "failure" in data else "durable.task-completed",
        "id": invocation.get_id().removesuffix("/scheduled"),  # instance/execution/task/attempt
        "source": invocation.get_source(),
        "subject": invocation.get_subject(),
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, data)


def serve(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    try:
        invocation = from_rabbitmq_event(RabbitMQMessage(properties.headers or {}, properties.content_type, body))
        answer, reply_queue = to_structured_event(outcome(invocation)), invocation.get_extension("replyqueue")
    except Exception as error:  # it is no invocation: to the dead letters with it
        print(f"not understood: {error!r}", file=sys.stderr)
        channel.basic_reject(method.delivery_tag, requeue=False)
        return
    persistent = pika.BasicProperties(content_type=answer.content_type, delivery_mode=2)
    channel.basic_publish("", reply_queue, answer.body, persistent, mandatory=True)
    channel.basic_ack(method.delivery_tag)


def declare(channel: Any, workspace: str, queue: str) -> str:
    """The work queue, as every worker makes it where it is missing."""
    name, dead_letters = f"durable.{workspace}.work.{queue}", f"durable.{workspace}.dead-letters"
    limits = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-overflow": "reject-publish"}
    dead = {"x-dead-letter-exchange": dead_letters, "x-dead-letter-strategy": "at-least-once"}
    channel.queue_declare(name, durable=True, arguments=limits | dead)
    return name


if __name__ == "__main__":
    channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
    channel.confirm_delivery()  # publishing waits for the broker's word, and raises when it is not a yes
    channel.basic_qos(prefetch_count=1)
    queue = declare(channel, sys.argv[2] if len(sys.argv) > 2 else "default", "foreign")
    channel.basic_consume(queue, serve)
    print(f"serving {queue}", flush=True)
    channel.start_consuming()
