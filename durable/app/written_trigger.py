"""A trigger as people write it, in JSON: what `durable trigger add` takes.

    {"id": "third", "on": [{"type": "com.shop.*", "subject": "order-42"}], "condition": {"kind": "join", "n": 3},
     "action": {"kind": "start_orchestration", "name": "ship"}, "context": {}, "transient": true}

Conditions and actions are the structs of `durable/triggers/`, each with its `kind`. Nobody has checked these as
`durable.conditions` and `durable.actions` check what they make, and a misspelt field would be left out in silence.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from ..model.names import check_name
from ..model.retry import RetryPolicy
from ..replay.callee import checked_tags
from ..triggers.actions import AnyAction, Attempts, Pass, Publish, Resume, StartOrchestration
from ..triggers.conditions import Always, AnyCondition, Expression, check_expression
from ..triggers.event import new_event, to_sdk
from ..triggers.pattern import EventPattern

_NAMES: Final = frozenset("id name trigger_id instance_id queue group to".split())


class _Written(msgspec.Struct, frozen=True):
    id: str
    on: EventPattern | tuple[EventPattern, ...]
    condition: AnyCondition = Always()
    action: AnyAction = Pass()
    context: dict[str, Any] = {}
    transient: bool = True


_decode = msgspec.json.Decoder(_Written).decode


def written_trigger(given: Any) -> dict[str, Any]:
    """What `client.add_triggers` takes for it. given: parsed JSON. Raises ValueError with the place, ImportError."""
    written = _decode(json.dumps(given).encode())
    _check(given, written, "")
    fields = msgspec.structs.asdict(written)
    return {"trigger_id": fields.pop("id"), **fields}


def _check(given: Any, made: Any, where: str) -> None:
    if isinstance(made, tuple):
        for number, (part, its) in enumerate(zip(given, made, strict=True)):
            _check(part, its, f"{where}[{number}]")
    elif isinstance(made, msgspec.Struct):
        _check_fields(given, made, where)
        _check_meaning(made)
        for field, part in given.items():
            _check(part, getattr(made, field, None), f"{where}.{field}" if where else field)


def _check_fields(given: dict[str, Any], made: msgspec.Struct, where: str) -> None:
    known = [*made.__struct_fields__, *filter(None, [made.__struct_config__.tag_field])]
    for field, value in given.items():
        shown = f"{where}.{field}" if where else field
        if field not in known:
            raise ValueError(f"there is no field {shown}; there are {', '.join(known)}")
        if field in _NAMES and not isinstance(made, EventPattern):
            check_name(value, shown)


def _check_meaning(made: msgspec.Struct) -> None:
    if isinstance(made, Expression):
        check_expression(made.text)
    elif isinstance(made, Publish):
        new_event(bytes(made.event))
        to_sdk(bytes(made.event))  # which refuses more
    elif isinstance(made, Resume):
        raise ValueError("an action of kind 'resume' comes with an orchestration's wait, and from nowhere else")
    elif isinstance(made, StartOrchestration):
        checked_tags(made.tags)
    elif isinstance(made, Attempts):
        RetryPolicy(**msgspec.structs.asdict(made))
