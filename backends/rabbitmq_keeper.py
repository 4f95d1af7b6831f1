"""Who keeps a RabbitMQ transport connected: one session after the other, and in each what callers asked for.

Laws.
1. What was asked for is kept here (queues declared, subscriptions, the reply queue) and made again in every session.
2. Only the keeper's thread opens sessions after the first. Between two of them subscriptions are remembered, and what
   needs an answer waits for some seconds, where its caller can.
3. Watchers are told of a loss when it happens, and of each queue that had to be made again when it is there.
4. A queue that takes part in nothing any more (a quorum queue whose broker died moments after it was declared) is
   deleted and made again: after two sessions in which it did not answer while the broker did. The store knows what was
   in it.
5. Only `close` ends the keeper's thread. A repair that raises what nobody thought of is logged and made again.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from durable.model.errors import TransportError
from durable.ports import Delivery, Trouble

from .cloud_events import subjects
from .queue_names import Names
from .rabbitmq_connection import ANSWER_SECONDS, CLOSE_SECONDS, NoAnswer, Session, SessionLost
from .rabbitmq_consuming import Consumer, Refused, Sink
from .rabbitmq_publishing import Publisher
from .rabbitmq_topology import LOCKED, NOT_FOUND, Topology
from .rabbitmq_url import Target
from .watchers import Watchers

FIRST_SECONDS: Final = 0.2  # before the first try: a broker that drops us at once is not to be hammered
BACK_OFF: Final = wait_random_exponential(multiplier=0.4, min=0.2, max=5)  # full jitter, after each failure
PUT_OFF_SECONDS: Final = (0.5, 60.0)  # until a queue that could not be had is tried again: the first time, and at most
BUG_SECONDS: Final = 1.0  # until a repair that raised what it never should is made again
LOCKED_SECONDS: Final = 60.0  # the broker notices a connection that just vanished by its missing heartbeats
SILENT_SESSIONS: Final = 2
INTERNAL_ERROR: Final = 541
REPLIES_PREFETCH: Final = 1_000

Wake = Callable[[Collection[str]], None]

log = logging.getLogger("durable.rabbitmq")


class Subscription(NamedTuple):
    """What `Transport.subscribe` was asked for."""

    queue: str
    prefetch: int
    sink: Sink


class PutOff(NamedTuple):
    """When a queue that could not be had is tried again, by the monotonic clock, and after how long a pause."""

    at: float
    pause: float


class Keeper:
    """`session` and `publisher`: those there are now, None between two. `patience`: seconds, see law 4. `topology`:
    makes the queues."""

    def __init__(
        self,
        target: Target,
        names: Names,
        patience: float = ANSWER_SECONDS,
        topology: Callable[[Session, Names], Topology] = Topology,
    ) -> None:
        self.target = target
        self.names = names
        self.session: Session | None = None
        self.publisher: Publisher | None = None
        self.watchers = Watchers(target, log)
        self.address = names.reply_prefix + uuid.uuid4().hex
        self._patience = patience
        self._topology = topology
        self._control = threading.RLock()  # one sequence of declarations and subscriptions at a time
        self._state = threading.Lock()  # the session, and the fields from here
        self._attempt: Session | None = None
        self._declared: dict[str, None] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._consumers: dict[str, Consumer] = {}
        self._wakes: list[Wake] = []
        self._silent: dict[str, int] = {}
        self._put_off: dict[str, PutOff] = {}
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._repairs: SimpleQueue[Session | str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._keep, name="durable-rabbitmq-keeper", daemon=True)

    # From any thread.

    def open(self) -> None:
        """The first session. Raises TransportError when there is none to be had."""
        self._restore()
        self._thread.start()

    def close(self) -> None:
        """Idempotent."""
        with self._state:
            self._closing.set()
            sessions = [session for session in (self.session, self._attempt) if session is not None]
            self.session = self.publisher = None
        self._ready.set()  # whoever waits for a session need not
        self._repairs.put(None)
        for session in sessions:
            session.close()
        if self._thread.is_alive() and not any(session.on_own_thread for session in sessions):
            self._thread.join(CLOSE_SECONDS)

    def topology(self, seconds: float = ANSWER_SECONDS) -> Topology:
        """For declarations in the session there is or, within so many seconds, will be. Raises TransportError."""
        self._ready.wait(seconds)
        session = self.session
        if session is None:
            why = "it is closed" if self._closing.is_set() else "it is tried again all the time; is the broker running?"
            raise TransportError(f"no connection to {self.target}: {why}")
        session.refuse_own_thread()
        return self._topology(session, self.names)

    def remember(self, queues: Sequence[str], missing: Sequence[bool]) -> None:
        """These were declared: they are made again where they are missing. One that had been there is a loss: the
        broker does not tell consumers of a queue that is made again at once, and gives them nothing any more."""
        with self._state:
            lost = [queue for queue, gone in zip(queues, missing, strict=True) if gone and queue in self._declared]
            self._declared.update(dict.fromkeys(queues))
        for queue in lost:
            self._say_made_again(queue)

    def know(self, queues: Collection[str]) -> None:
        """These are there: a message for them was confirmed."""
        if not self._declared.keys() >= set(queues):
            with self._state:
                self._declared.update(dict.fromkeys(queues))

    def subscribe(self, subscription: Subscription) -> None:
        """In the place of an earlier one to the same queue. Raises TransportError for a queue the broker refuses."""
        queue = subscription.queue
        with self._control:
            self.unsubscribe(queue)
            with self._state:
                self._subscriptions[queue] = subscription
                session = self.session
            refused = self._consume(session, [subscription]).get(queue) if session else None
        if refused:
            self.unsubscribe(queue)
            remedy = "declare it first" if refused.code == NOT_FOUND else "the user needs the permission `read`"
            raise TransportError(f"can't subscribe: {refused}; {remedy}")

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        with self._state:
            self._subscriptions.pop(queue, None)
            self._put_off.pop(queue, None)
            consumer = self._consumers.pop(queue, None)
        if consumer is not None:
            consumer.session.post(consumer.give_back if give_back else consumer.cancel)

    def replies(self, wake: Wake) -> None:
        """The reply queue is at `address` when this returns, or will be when the connection is back."""
        with self._state:
            self._wakes.append(wake)
            session = self.session if len(self._wakes) == 1 else None
        if session is not None:
            try:
                self._receive_replies(session)
            except SessionLost:
                log.info("replies will come when the connection to %s is back", self.target)

    # On the pika thread.

    def _lost(self, session: Session, why: SessionLost) -> None:
        with self._state:
            if self.session is not session:
                return  # whoever is opening it is told
            self._ready.clear()
            self.session = self.publisher = None
            self._consumers.clear()
        log.warning("%s; connecting again", why)
        self.watchers.tell(Trouble())
        self._repairs.put(session)

    def _wake(self, deliveries: Sequence[Delivery]) -> None:
        about = subjects(delivery.body for delivery in deliveries)
        for wake in tuple(self._wakes):
            wake(about)

    # On the keeper's thread; `_restore` in `open` too.

    def _keep(self) -> None:
        while (repair := self._next_repair()) is not None:
            if self._closing.is_set():
                return
            try:
                if isinstance(repair, str):
                    self._make_again(repair)
                else:
                    self._reconnect()
            except Exception:
                if self._closing.is_set():
                    return
                log.exception("a repair of %s failed; next try in %g s", self.target, BUG_SECONDS)
                self._closing.wait(BUG_SECONDS)
                self._repair_again(repair)

    def _repair_again(self, repair: Session | str) -> None:
        session = self.session
        if session is None:
            self._repairs.put(repair)
        else:
            session.fail("a repair failed")  # the next one has everything made again

    def _next_repair(self) -> Session | str | None:
        """What was asked for, or else a queue whose pause is over."""
        while True:
            with self._state:
                queue, put_off = min(self._put_off.items(), key=lambda item: item[1], default=("", None))
            try:
                return self._repairs.get(timeout=put_off and max(0.0, put_off.at - monotonic()))
            except Empty:
                if queue in self._put_off:  # it may have been unsubscribed meanwhile
                    return queue

    def _reconnect(self) -> None:
        if self.session is not None:
            return  # two losses, one repair
        since = monotonic()
        self._closing.wait(FIRST_SECONDS)
        retrying = Retrying(
            wait=BACK_OFF,
            retry=retry_if_exception_type(TransportError),
            stop=stop_when_event_set(self._closing),
            sleep=sleep_using_event(self._closing),
            before_sleep=self._say_again,
            reraise=True,
        )
        retrying(self._restore)
        if self.session is not None:
            log.warning("connection to %s is back after %.1f s", self.target, monotonic() - since)

    def _say_again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s; next try in %.1f s", error, state.upcoming_sleep)

    def _restore(self) -> None:
        """Open a session and make everything in it that callers asked for. TransportError: none is open then."""
        with self._state:
            if self._closing.is_set():
                return
            session = self._attempt = Session(self.target, self._lost)
        session.open()
        with self._control:
            try:
                again = self._furnish(session)
            except Exception:
                session.close()
                raise
            self._resume(session, again)

    def _furnish(self, session: Session) -> list[str]:
        """Channels and queues; which of them were missing. At its end callers use the session."""
        publisher = Publisher(session, self.names)
        session.ask(publisher.start, "opening the channels for publishing")
        topology = self._topology(session, self.names)
        topology.prepare()
        self._delete_silent(topology)
        with self._state:
            wanted = [*dict.fromkeys((*self._declared, *self._subscriptions))]
        again = self._declare_again(topology, wanted)
        topology.close()
        with self._state:
            if session.lost or self._closing.is_set():
                raise session.lost or TransportError(f"connection to {self.target} closed")
            self.session, self.publisher, self._attempt = session, publisher, None
            self._ready.set()
        return again

    def _declare_again(self, topology: Topology, queues: Sequence[str]) -> list[str]:
        """Which were missing. One that the broker refuses, because somebody made it otherwise, is left as it is."""
        again = []
        for queue in queues:
            try:
                [missing] = topology.declare([queue])
            except (SessionLost, NoAnswer):
                raise
            except TransportError as error:
                log.error("%s; the other queues are served", error)
            else:
                again += [queue] if missing else []
        return again

    def _resume(self, session: Session, again: Sequence[str]) -> None:
        self._put_off.clear()
        for queue in again:
            self._say_made_again(queue)
        with self._state:
            subscriptions = [*self._subscriptions.values()]
        for queue, refused in self._consume(session, subscriptions).items():
            if refused.code == NOT_FOUND:
                self._repairs.put(queue)
            else:
                self._try_later(queue, refused)
        if self._wakes:
            self._repairs.put(self.address)

    def _make_again(self, queue: str) -> None:
        """The broker ended the subscription to it, or it was put off some time ago."""
        before = self._put_off.pop(queue, None)
        session = self.session
        if session is None:
            return  # `_restore` does it
        try:
            if queue == self.address:
                self._receive_replies(session)
            else:
                self._subscribe_again(session, queue)
        except SessionLost:
            return  # as above
        except TransportError as error:
            self._try_later(queue, error, before)

    def _subscribe_again(self, session: Session, queue: str) -> None:
        with self._control:
            with self._state:
                subscription = self._subscriptions.get(queue)
            if subscription is None:
                return  # whoever wants it next finds it missing
            with closing(self._topology(session, self.names)) as topology:
                self._declare_again(topology, [queue])
            refused = self._consume(session, [subscription]).get(queue)
        if refused is not None:
            raise refused
        self._say_made_again(queue)

    def _try_later(self, queue: str, error: TransportError, before: PutOff | None = None) -> None:
        """After a pause that grows: nobody else tries, as long as this session lasts."""
        first, longest = PUT_OFF_SECONDS
        pause = min(2 * before.pause, longest) if before else first
        with self._state:
            self._put_off[queue] = PutOff(monotonic() + pause, pause)
        log.error("nothing is received from queue %a: %s; next try in %g s", queue, error, pause)

    def _say_made_again(self, queue: str) -> None:
        log.warning("queue %a was missing at %s and is there again", queue, self.target)
        self.watchers.tell(Trouble(queue))

    def _delete_silent(self, topology: Topology) -> None:
        if not topology.ours:
            return
        for queue in [queue for queue, sessions in self._silent.items() if sessions >= SILENT_SESSIONS]:
            log.error(
                "queue %a at %s answers no more, as a quorum queue whose broker died moments after it was declared; "
                "it is deleted and made again, and what was in it is sent again from the store",
                queue,
                self.target,
            )
            topology.delete(queue)
            del self._silent[queue]

    # Under `_control`.

    def _consume(self, session: Session, subscriptions: Sequence[Subscription]) -> dict[str, Refused]:
        """Subscribe to all; which were refused. The session is given up when a queue does not answer.

        All at once, but for those that did not answer before, which come last and one by one: so the healthy among
        them are told apart from the one that breaks the session.
        """
        suspects = [[some] for some in subscriptions if some.queue in self._silent]
        refused = self._consume_together(session, [some for some in subscriptions if some.queue not in self._silent])
        for suspect in suspects:
            if not session.lost:
                refused |= self._consume_together(session, suspect)
        return refused

    def _consume_together(self, session: Session, subscriptions: Sequence[Subscription]) -> dict[str, Refused]:
        started = []
        for subscription in subscriptions:
            queue, prefetch, sink = subscription
            consumer = Consumer(session, queue, prefetch, sink, partial(self._repairs.put, queue))
            started.append((subscription, consumer, session.begin(consumer.start)))
        refused: dict[str, Refused] = {}
        silent: list[str] = []
        until = monotonic() + self._patience
        for subscription, consumer, answer in started:
            queue = subscription.queue
            try:
                session.wait(answer, until - monotonic(), f"subscribing to queue {queue!a}")
            except Refused as error:
                refused[queue] = error
            except NoAnswer:
                silent.append(queue)
            except SessionLost as lost:  # the next session subscribes
                if lost.code == INTERNAL_ERROR:
                    silent.append(queue)
            else:
                self._silent.pop(queue, None)
                self._adopt(subscription, consumer)
        for queue in silent:
            self._silent[queue] = self._silent.get(queue, 0) + 1
        if silent:
            session.fail(f"no answer from queue {', '.join(map(ascii, silent))}")
        return refused

    def _adopt(self, subscription: Subscription, consumer: Consumer) -> None:
        with self._state:
            current = self._subscriptions.get(subscription.queue) is subscription
            # Unsubscribed while it began; else whatever was there before, which the broker may still give messages to.
            spare = self._consumers.get(subscription.queue) if current else consumer
            if current:
                self._consumers[subscription.queue] = consumer
        if spare is not None:
            spare.session.post(spare.cancel)

    def _receive_replies(self, session: Session) -> None:
        """Not under `_control`: a queue that a vanished connection of ours still has may take some heartbeats."""
        retrying = Retrying(
            wait=BACK_OFF,
            retry=retry_if_exception(lambda error: isinstance(error, Refused) and error.code == LOCKED),
            stop=stop_any(stop_when_event_set(self._closing), stop_after_delay(LOCKED_SECONDS)),
            sleep=sleep_using_event(self._closing),
            reraise=True,
        )
        with closing(self._topology(session, self.names)) as topology:
            retrying(topology.declare_replies, self.address)
        gone = partial(self._repairs.put, self.address)
        consumer = Consumer(session, self.address, REPLIES_PREFETCH, self._wake, gone, settles=False)
        session.ask(consumer.start, "subscribing to the reply queue")
