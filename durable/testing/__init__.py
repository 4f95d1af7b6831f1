"""For tests: of orchestrators, of a deployment against old histories, of a backend against the contracts.

A whole system without servers, threads and waiting, whose clock jumps to the next timer:

    with durable.testing.Environment() as env:
        env.replace(charge, "receipt-1")
        handle = env.client.start_orchestration(order, "book")
        assert handle.result() == "book is on its way"

    Environment   client, now, advance(duration), replace(activity, outcome), calls(activity)
    Call          what `env.calls` lists: name, args, instance_id, task_id, attempt, at
    StuckError    raised where a test waits for what can't come any more; an AssertionError

One orchestrator, step by step, without even that:

    run = durable.testing.step(order, "book")
    run.complete("charge", "receipt-1")

    step          starts it; returns a Run
    Run           scheduled, timers, waits; complete, fail, raise_event, fire_timer, advance; status, output, failure
    Scheduled, Timer, Wait    what a Run waits for

Does today's code fit the histories of yesterday? For CI, over a folder of files that `durable export` wrote:

    durable.testing.replay("histories/order-42.jsonl")

    replay        raises OrchestrationBlockedError with the first difference

For those who write a backend: the laws of `durable.ports`, as pytest classes to inherit (samples/third_party_store is a
store that does). They need pytest, and `check_store` hypothesis:

    StoreContract, SignalsContract, TransportContract, EventSourceContract, BlobsContract, check_store

The names load when they are first used. The other modules of this package test this package itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blobs_contract import BlobsContract
    from .driver import StuckError
    from .environment import Environment
    from .event_source_contract import EventSourceContract
    from .replaying import replay
    from .signals_contract import SignalsContract
    from .stand_ins import Call
    from .stepping import Run, Scheduled, Timer, Wait, step
    from .store_contract import StoreContract
    from .store_machine import check_store
    from .transport_contract import TransportContract

_HOMES = {
    "blobs_contract": ("BlobsContract",),
    "driver": ("StuckError",),
    "environment": ("Environment",),
    "event_source_contract": ("EventSourceContract",),
    "replaying": ("replay",),
    "signals_contract": ("SignalsContract",),
    "stand_ins": ("Call",),
    "stepping": ("Run", "Scheduled", "Timer", "Wait", "step"),
    "store_contract": ("StoreContract",),
    "store_machine": ("check_store",),
    "transport_contract": ("TransportContract",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BlobsContract",
    "Call",
    "Environment",
    "EventSourceContract",
    "Run",
    "Scheduled",
    "SignalsContract",
    "StoreContract",
    "StuckError",
    "Timer",
    "TransportContract",
    "Wait",
    "check_store",
    "replay",
    "step",
]

if not TYPE_CHECKING:  # type checkers that saw it would take any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOME_OF:
            raise AttributeError(f"module 'durable.testing' has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
