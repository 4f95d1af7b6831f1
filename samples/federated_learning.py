"""Federated learning: in each of three rounds, clients improve a number with data that they keep to themselves.

    python samples/federated_learning.py

A round ends when 65 % of its clients have answered; those that reject don't count. When that takes too long, they are
asked again. Kill it and run it again: it goes on.
"""

import durable
from durable import CloudEvent, EventPattern, TriggerContext, actions

CLIENTS, THRESHOLD, PATIENCE, ROUNDS = 6, 0.65, 0.5, 3


def event(kind: str, data: dict[str, float] | None = None, **more: str) -> CloudEvent:
    return CloudEvent({"type": kind, "source": "federated_learning.py", **more}, data)


@durable.activity
def train(client: int, attempt: str, number: float) -> float | None:
    rejects = client > 3 or (attempt == "round 2, attempt 1" and client > 1)
    return None if rejects else (number + client) / 2  # a client's data are its own number here


def ask_clients(context: TriggerContext, round: int, attempt: int, number: float) -> None:
    name = f"round {round}, attempt {attempt}"
    on = [EventPattern(type=kind, subject=name) for kind in ("durable.activity-completed", "timeout")]
    kept = {"round": round, "attempt": attempt, "number": number, "updates": []}
    context.do(actions.add_trigger(name, on=on, condition=enough, action=aggregate, context=kept))
    for client in range(CLIENTS):
        context.do(actions.call_activity(train, [client, name, number], subject=name))
    context.do(actions.publish(event("timeout", subject=name), delay=PATIENCE))  # a round that has ended lets it pass


@durable.condition
def enough(context: TriggerContext, answer: CloudEvent) -> bool:
    if answer.get_data() is not None:
        context["updates"].append(answer.get_data())
    return answer.get_type() == "timeout" or len(context["updates"]) >= THRESHOLD * CLIENTS


@durable.action
def aggregate(context: TriggerContext, last: CloudEvent) -> None:
    if last.get_type() == "timeout":
        print(f"{context.trigger_id}: too few have answered")
        ask_clients(context, context["round"], context["attempt"] + 1, context["number"])
    else:
        context.do(actions.publish(event("learned", {"number": sum(context["updates"]) / len(context["updates"])})))


@durable.action
def next_round(context: TriggerContext, learned: CloudEvent) -> None:
    context.setdefault("learned", []).append(learned.get_data())
    if len(context["learned"]) <= ROUNDS:
        ask_clients(context, len(context["learned"]), 1, context["learned"][-1]["number"])


with durable.connect() as client, durable.Worker(client):
    if client.get_trigger("rounds") is None:  # else it is there from a run before this one
        client.add_trigger("rounds", on=EventPattern(type="learned"), action=next_round, transient=False)
    client.publish(event("learned", {"number": 0.0}, id="begin"))  # the same id again is the same event
    rounds = client.wait_for_trigger("rounds", timeout=30, firings=ROUNDS + 1)
    print("after each round:", *(each["number"] for each in rounds.context["learned"]) if rounds else ())
