"""A web shop: orders are started, looked at and approved over HTTP, and outlive the server.

pip install fastapi uvicorn
python samples/web_shop.py [PORT]

curl -X POST 'localhost:8000/orders/42?item=book'
curl localhost:8000/orders/42
curl -X POST 'localhost:8000/orders/42/approval?approved=true'
curl localhost:8000/orders/42/outcome
"""

import sys
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

import durable

shop = durable.connect_async()  # opens nothing yet


@durable.activity
def ship(item: str) -> str:
    return f"{item} is on its way"


@durable.orchestrator
def order(ctx: durable.OrchestrationContext, item: str) -> Generator[Any, Any, str]:
    if (yield from ctx.wait_for_external_event("approval", type=bool)):
        return (yield from ctx.call_activity(ship, item))
    return f"no {item}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with shop:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}")
async def start(number: str, item: str) -> str:
    return (await shop.start_orchestration(order, item, instance_id=number, if_exists="return")).instance_id


@app.get("/orders/{number}")
async def status(number: str) -> dict[str, Any]:
    if (found := await shop.get_status(number)) is None:
        raise HTTPException(404, f"there is no order {number}")
    return {"status": found.runtime_status, "item": found.input, "outcome": found.output}


@app.post("/orders/{number}/approval")
async def approve(number: str, approved: bool) -> None:
    await shop.raise_event(number, "approval", approved)


@app.get("/orders/{number}/outcome")
async def outcome(number: str) -> Any:
    return await shop.handle(number).result()  # waits, and costs no thread meanwhile


if __name__ == "__main__":
    with durable.Worker():
        uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, log_level="warning")
