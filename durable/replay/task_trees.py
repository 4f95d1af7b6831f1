"""What can be reached from a task in the tree that the code yielded, and from where a task can be reached.

A tree may share branches: a task can stand below several others. Each is looked at once.
"""

from __future__ import annotations

from typing import Any

from .tasks import Composite, Leaf, Task


def open_leaves(root: Task[Any]) -> list[Leaf[Any]]:
    """The unfinished leaves that can be reached from `root` through unfinished tasks, by number."""
    if isinstance(root, Leaf):
        return [root]
    found: dict[int, Leaf[Any]] = {}
    seen: set[int] = set()
    stack: list[Task[Any]] = [root]
    while stack:
        task = stack.pop()
        if task.order or id(task) in seen:
            continue
        if isinstance(task, Leaf):
            found[task.id] = task
        elif isinstance(task, Composite):
            seen.add(id(task))
            stack.extend(task.children)
    return [found[number] for number in sorted(found)]


def is_open_below(root: Task[Any], leaf: Leaf[Any]) -> bool:
    """Whether an unfinished leaf is one of `open_leaves(root)`: asked from below, it costs no look at others."""
    seen: set[int] = set()
    stack: list[Task[Any]] = [leaf]
    while stack:
        task = stack.pop()
        if task.order or id(task) in seen:
            continue
        if task is root:
            return True
        seen.add(id(task))
        stack.extend(task._parents)
    return False


def leaves_of(root: Task[Any]) -> set[int]:
    """The numbers of all leaves below `root`, finished or not."""
    found: set[int] = set()
    seen: set[int] = set()
    stack: list[Task[Any]] = [root]
    while stack:
        task = stack.pop()
        if isinstance(task, Leaf):
            found.add(task.id)
        elif isinstance(task, Composite) and id(task) not in seen:
            seen.add(id(task))
            stack.extend(task.parts)
    return found
