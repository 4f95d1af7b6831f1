"""Fan-out and fan-in: hash every file below a folder, one activity a file, and a digest over all.

    python samples/hash_folder.py FOLDER

Prints what sha256sum would, sorted by path, and one digest over all those lines.
"""

import sys
from collections.abc import Generator
from hashlib import sha256
from pathlib import Path
from typing import Any

import durable


@durable.activity
def list_files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


@durable.activity
def hash_file(folder: str, name: str) -> str:
    return sha256(Path(folder, name).read_bytes()).hexdigest()


@durable.orchestrator
def hash_folder(ctx: durable.OrchestrationContext, folder: str) -> Generator[Any, Any, list[tuple[str, str]]]:
    names = yield from ctx.call_activity(list_files, folder)
    hashes = yield from ctx.task_all([ctx.call_activity(hash_file, folder, name) for name in names])
    total = sha256("".join(f"{hash}  {name}\n" for hash, name in zip(hashes, names, strict=True)).encode())
    return [*zip(hashes, names, strict=True), (total.hexdigest(), "(all of them)")]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with durable.Worker():
        for digest, name in durable.start_orchestration(hash_folder, str(Path(sys.argv[1]).resolve())).result():
            print(f"{digest}  {name}")
