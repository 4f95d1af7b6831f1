"""The command `durable`: a user of the public client like any other, so it knows no store and no engine.

typer and rich are loaded when the command runs, never by `import durable`.

    commands   what can be asked: names, options, help       session    one invocation: its store, its options
    run        an orchestration, embedded                    loading    a user's file or module
    serve      a worker in the foreground                    processes  several of them
    listing    `list`        show    `show`                  events     the rows of `history`, and of progress
    around     what `show` tells beside the status         following  `--follow`: events as they come
    doctor     `doctor`                                      start      `start`
    steer      `raise`, `terminate`, `suspend`, ...          renewing   `rewind`, `restart`, `fork`, `purge`
    publish    `publish`                                     triggers   `trigger ...`; trigger_words: how it looks
    archives   `export`, `import`, `replay`                  logs       what the library logs, on the terminal
    tasks      what a history says about each task (pure)    timeline   those tasks, drawn
    terminal   text that is safe to print                    exits      what each exit status means
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and end it with the command's exit status."""
    from .commands import run_command_line

    sys.exit(run_command_line(sys.argv[1:]))
