"""Random programs for the simulator, and the scripts of what their instances need from outside."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

from .programs import LONG, TICK, Node


class Raised(NamedTuple):
    """An event that somebody outside raises: its name as written there, and its data."""

    name: str
    data: str


class Script(NamedTuple):
    """An instance to be: the orchestrator's name, its input, and the events it needs, in order."""

    kind: str
    program: Node
    events: list[Raised]


def make_script(random: Random, size: int = 6, *, ticks: bool = False) -> Script:
    """A random program of about `size` calls. The same random state gives the same program. ticks: it may wait for the
    CloudEvents that somebody publishes all the time."""
    maker = _Maker(random, size, ticks=ticks)
    body = maker.body()
    repeats = random.choice((1, 2, 3)) if random.random() < 0.2 else 0
    events = [
        Raised(random.choice((name, name.upper())), f"e:{name}") for name in maker.waits for _ in range(repeats + 1)
    ]
    random.shuffle(events)
    numbered, count = [], dict.fromkeys(maker.waits, 0)
    for event in events:
        name = event.name.casefold()
        numbered.append(Raised(event.name, f"{event.data}#{count[name]}"))
        count[name] += 1
    kind = "coroutine" if random.random() < 0.35 else "generator"
    return Script(kind, [body, repeats, []], numbered)


# It fails, and rewound it has a wait and a child that are open again.
REWOUND: Final = Script(
    "generator",
    [
        ["all", [["tick", "never", LONG], ["child", "coroutine", [["act", "k0", 9, 1, 0, ""], 0, []], 1]], False],
        0,
        [],
    ],
    [],
)


def make_order(random: Random) -> Node:
    """A program that needs nobody but a ticker."""
    return [_Maker(random, random.randint(1, 3), depth=1, ticks=True).body(), 0, []]


class _Maker:
    def __init__(self, random: Random, size: int, depth: int = 0, ticks: bool = False) -> None:
        self.random = random
        self.left = max(1, size)
        self.depth = depth
        self.ticks = ticks
        self.waits: list[str] = []
        self.keys = 0

    def body(self) -> Node:
        """A sequence until the size is used up; perhaps with an error that nobody catches."""
        statements: list[Node] = []
        while self.left > 0:
            statements.append(self.statement())
        if self.random.random() < 0.08:
            statements.append(["raise", "raised"])
        body = ["seq", statements] if len(statements) != 1 else statements[0]
        return ["guard", body, self.safe(self.act())] if self.random.random() < 0.4 else body

    def statement(self) -> Node:
        chance = self.random.random()
        if chance < 0.42:
            leaf = self.safe(self.leaf())
            return ["patch", f"p{self.keys % 3}", leaf] if chance < 0.06 else leaf
        if chance < 0.60:
            return self.safe(self.group("all"))
        if chance < 0.70:
            return self.safe(self.group("any"))
        if chance < 0.76:
            self.left -= 1
            some = [self.act(), ["timer", LONG], ["event", "never", LONG], *([["tick", "never", LONG]] * self.ticks)]
            return ["cancel", self.random.choice(some)]
        if chance < 0.80:
            return ["spawn", self.act()]
        if chance < 0.84:
            self.left -= 1
            return ["status", {"done": self.left}]
        if chance < 0.90 and not self.depth:
            return ["retake", self.event(None), self.act()]
        if chance < 0.93:
            self.left -= 3
            acts = [self.act() for _ in range(self.random.randint(5, 20))]
            if chance < 0.92:
                once = [[*act[:2], 9 if act[2] else 0, 1, 0, ""] for act in acts]  # or a rewind could let it pass
                return self.safe(["map", once, len(acts) // 3, chance < 0.91])
            return self.safe(["all", acts, True])
        if chance < 0.96:
            return self.safe(["seq", [self.leaf(), self.leaf()]])
        return self.apart()

    def apart(self) -> Node:
        """What concerns other instances, or this one as if it were another."""
        self.left -= 1
        self.keys += 1
        kind = self.random.choice(("tell", "tell", "lose", "detach"))
        if kind != "detach":
            return [kind, f"self{self.keys}"]
        if self.depth >= 2:
            return ["lose", f"self{self.keys}"]
        maker = self.below()
        return ["detach", self.random.choice(("generator", "coroutine")), [maker.body(), 0, []]]

    def safe(self, node: Node) -> Node:
        """What may fail is caught, nearly always: otherwise most programs would end at once."""
        return node if not _may_fail(node) or self.random.random() < 0.12 else ["try", node]

    def group(self, kind: str, depth: int = 0) -> Node:
        children: list[Node] = []
        for _ in range(self.random.randint(2, 4)):
            nested = depth < 2 and self.random.random() < 0.2
            children.append(
                self.group(self.random.choice(("all", "any")), depth + 1)
                if nested
                else self.leaf(kind == "any" and bool(children))
            )
        return ["all", children, self.random.random() < 0.4] if kind == "all" else ["any", children]

    def leaf(self, may_last: bool = False) -> Node:
        if self.ticks and self.random.random() < 0.2:
            return self.tick()
        chance = self.random.random()
        if chance < 0.62:
            return self.act()
        if chance < 0.76:
            self.left -= 1
            if may_last and self.random.random() < 0.3:
                return ["timer", LONG]
            return ["timer", self.random.choice((0, 0.01, 0.1, 0.5, 2.0))]
        if chance < 0.90:
            if self.depth:  # nobody outside knows the ids of children
                self.left -= 1
                return ["event", "never", self.random.choice((0.05, 0.4))]
            return self.event(self.random.choice((None, None, 0.05, 0.5, LONG)))
        return self.child()

    def act(self) -> Node:
        self.left -= 1
        self.keys += 1
        chance = self.random.random()
        fails, attempts = 0, 1
        if chance < 0.12:
            fails = 9
        elif chance < 0.24:
            fails, attempts = self.random.choice(((1, 2), (1, 3), (2, 3), (9, 2), (0, 3)))
        salt = self.random.choice(("", "", "", "uuid", "random"))
        return ["act", f"k{self.keys}", fails, attempts, self.random.choice((0, 0.1, 0.6)), salt]

    def event(self, timeout: float | None) -> Node:
        self.left -= 1
        name = self.random.choice(("go", "pay", "straße"))
        self.waits.append(name.casefold())
        return ["event", name, timeout]

    def tick(self) -> Node:
        self.left -= 1
        if self.random.random() < 0.2:
            return ["tick", "never", self.random.choice((0.05, 0.4))]
        return ["tick", TICK, self.random.choice((None, None, 0.05, 0.5, LONG))]

    def below(self) -> _Maker:
        return _Maker(self.random, self.random.randint(1, 3), self.depth + 1, self.ticks)

    def child(self) -> Node:
        self.left -= 2
        if self.depth >= 2 or self.random.random() < 0.2:
            return ["child", "function", [["status", "plain"], 0, []], 1]
        maker = self.below()
        kind = self.random.choice(("generator", "coroutine"))
        repeats = 1 if self.random.random() < 0.1 else 0
        return ["child", kind, [maker.body(), repeats, []], self.random.choice((1, 1, 2))]


def _may_fail(node: Node) -> bool:
    kind = node[0]
    if kind == "act":
        return bool(node[2] >= node[3])
    if kind in ("event", "tick"):
        return node[2] is not None
    if kind == "child":
        return _may_fail(node[2][0])
    if kind == "patch":
        return _may_fail(node[2])
    if kind in ("all", "any", "seq", "map"):
        return any(_may_fail(child) for child in node[1])
    if kind == "guard":
        return _may_fail(node[1]) or _may_fail(node[2])
    return bool(kind == "raise")
