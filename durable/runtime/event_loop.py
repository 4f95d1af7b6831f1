"""The thread on which `async def` activities run. Loaded with the first of them: asyncio costs a worker 20 ms."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any


class EventLoopThread:
    """One asyncio loop on one daemon thread; at most `size` coroutines are past their start at a time."""

    def __init__(self, size: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(size)
        threading.Thread(target=self._serve, name="durable-activity-loop", daemon=True).start()

    def submit(self, call: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
        """Run what `call` makes, once a slot is free. Cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(self._in_a_slot(call), self._loop)

    def close(self) -> None:
        """End the thread, once what was submitted has ended. Cancel that before: twice would disturb its tidying up."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _in_a_slot(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with self._slots:
            await call()

    def _serve(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
        finally:
            loop.close()
