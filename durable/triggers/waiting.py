"""Event, condition, action, context: the one way anything here wakes up (after Triggerflow).

Laws.
1. A trigger is data: the subjects whose events concern it, a condition over its context, an action, a context.
2. An event whose subject is not in `on` never fires it. `fire` only reads: same trigger, same event, same answer.
3. It fires once; whoever holds it drops it then.

A waiting orchestration is such a trigger: `on` are the open tasks it can reach from what it yielded, the context is
the tree of those tasks, the condition is that the root of the tree is settled, the action is to resume the code.
The law that ties it to replay: it fires exactly when replaying the history would get past this point.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Generic, TypeVar

import msgspec

Context = TypeVar("Context")
Action = TypeVar("Action")


class Trigger(msgspec.Struct, Generic[Context, Action], frozen=True):
    """Which events (`on`, by subject), under which `condition`, cause which `action`; `context` is its memory."""

    on: Container[int]
    condition: Callable[[Context], bool]
    action: Action
    context: Context


class Firing(msgspec.Struct, Generic[Context, Action], frozen=True):
    """What a trigger decided: do this action, with this context."""

    action: Action
    context: Context


def fire(trigger: Trigger[Context, Action], subject: int) -> Firing[Context, Action] | None:
    """The firing that an event about `subject` causes, or None. The context holds what has arrived already."""
    if subject in trigger.on and trigger.condition(trigger.context):
        return Firing(trigger.action, trigger.context)
    return None
