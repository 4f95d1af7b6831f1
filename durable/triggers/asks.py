"""What people ask of a workspace's triggers. An ask is a fact: it waits in line with the events, and is taken once.

Laws.
1. Asks are taken in the order in which they came, and what came before one is all that decides its answer: so whoever
   asked can tell the answer before a worker has taken it, by taking what waits in line on a copy.
2. The parts of one ask are taken together, each answered by itself: DONE, or why not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..model.history import UNDECODABLE, Raw, UnreadableHistory
from .actions import Definition, Interception
from .changes import Source

if TYPE_CHECKING:
    from .state import HubState

DONE: Final = ""
EXISTS: Final = "exists"
MISSING: Final = "missing"


class Part(msgspec.Struct, frozen=True, tag_field="ask", omit_defaults=True):
    """One thing that is asked for."""

    def of(self, hub: HubState) -> str:
        """Do it; the answer."""
        raise NotImplementedError


class Add(Part, frozen=True, tag="add"):
    definition: Definition
    context: dict[str, Any] = {}

    def of(self, hub: HubState) -> str:
        if hub.view(self.definition.id) is not None:
            return EXISTS
        hub.add(self.definition, self.context)
        return DONE


class Declare(Part, frozen=True, tag="declare"):
    """Add it, or change one that is there."""

    definition: Definition

    def of(self, hub: HubState) -> str:
        hub.declare(self.definition)
        return DONE


class Delete(Part, frozen=True, tag="delete"):
    trigger_id: str

    def of(self, hub: HubState) -> str:
        return _found(hub.delete(self.trigger_id))


class Flush(Part, frozen=True, tag="flush"):
    def of(self, hub: HubState) -> str:
        hub.flush()
        return DONE


class Enable(Part, frozen=True, tag="enable"):
    trigger_id: str
    enabled: bool

    def of(self, hub: HubState) -> str:
        return _found(hub.change(self.trigger_id, enabled=self.enabled))


class Intercept(Part, frozen=True, tag="intercept"):
    trigger_id: str
    interception: Interception

    def of(self, hub: HubState) -> str:
        return _found(hub.intercept(self.trigger_id, self.interception))


class SetContext(Part, frozen=True, tag="set_context"):
    """That of the workspace."""

    context: dict[str, Any]

    def of(self, hub: HubState) -> str:
        hub.set_workspace_context(self.context)
        return DONE


class AddKey(Part, frozen=True, tag="add_key"):
    """To the context of the workspace."""

    key: str
    value: Any

    def of(self, hub: HubState) -> str:
        context = hub.workspace_context
        if self.key in context:
            return EXISTS
        hub.set_workspace_context({**context, self.key: self.value})
        return DONE


class DropKey(Part, frozen=True, tag="drop_key"):
    key: str

    def of(self, hub: HubState) -> str:
        context = hub.workspace_context
        if context.pop(self.key, None) is None:
            return MISSING
        hub.set_workspace_context(context)
        return DONE


class Keep(Part, frozen=True, tag="keep"):
    """Whether events that fit no trigger are kept."""

    keep: bool

    def of(self, hub: HubState) -> str:
        hub.keep_unmatched(self.keep)
        return DONE


class AddSource(Part, frozen=True, tag="add_source"):
    name: str
    source: Source
    overwrite: bool = False

    def of(self, hub: HubState) -> str:
        if self.name in hub.sources and not self.overwrite:
            return EXISTS
        hub.set_source(self.name, self.source)
        return DONE


class DeleteSource(Part, frozen=True, tag="delete_source"):
    name: str

    def of(self, hub: HubState) -> str:
        if self.name not in hub.sources:
            return MISSING
        hub.set_source(self.name, None)
        return DONE


class Replay(Part, frozen=True, tag="replay"):
    """A dead letter."""

    letter_id: str

    def of(self, hub: HubState) -> str:
        return _found(hub.replay(self.letter_id))


class Bury(Part, frozen=True, tag="bury"):
    """A dead letter."""

    letter_id: str

    def of(self, hub: HubState) -> str:
        return _found(hub.bury(self.letter_id))


class Clear(Part, frozen=True, tag="clear"):
    """Everything."""

    def of(self, hub: HubState) -> str:
        hub.clear()
        return DONE


AnyPart = (
    Add
    | Declare
    | Delete
    | Flush
    | Enable
    | Intercept
    | SetContext
    | AddKey
    | DropKey
    | Keep
    | AddSource
    | DeleteSource
    | Replay
    | Bury
    | Clear
)


class Ask(msgspec.Struct, frozen=True):
    """token: of this ask alone."""

    token: str
    parts: tuple[AnyPart, ...]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Ask).decode


def encode_ask(ask: Ask) -> Raw:
    """As it is stored."""
    return Raw(_encode(ask))


def decode_ask(stored: Raw) -> Ask:
    """Raises UnreadableHistory for what this version can't read."""
    try:
        return _decode(stored)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"what is asked of the triggers can't be decoded ({error})") from error


def _found(found: bool) -> str:
    return DONE if found else MISSING
