"""Listing the instances that users have started: those of our own, whose ids begin with @, are none of them."""

from __future__ import annotations

from msgspec.structs import replace

from ..model.status import Summary
from ..ports import Query, Slice, Store


def listed(store: Store, query: Query) -> Slice[Summary]:
    """A page, as full as it would be if the others were not there."""
    page = store.find(query)
    items = [summary for summary in page.items if not summary.instance_id.startswith("@")]
    missing = len(page.items) - len(items)
    if not missing or page.next is None:
        return Slice(items, page.next)
    rest = listed(store, replace(query, limit=missing, cursor=page.next))
    return Slice([*items, *rest.items], rest.next)
