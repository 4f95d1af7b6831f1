"""The command `durable`: a user of the public client like any other, so it knows no store and no engine.

typer and rich are loaded when the command runs, never by `import durable`.

    commands   what can be asked: names, options, help       session    one invocation: its store, its options
    run        an orchestration, embedded                    serve      a worker in the foreground
    renewing   `rewind`, `restart`, `fork`, `purge`
    listing    `list`        show    `show`                  events     `history`, and progress while running
    tasks      what a history says about each task (pure)    timeline   those tasks, drawn
    terminal   text that is safe to print                    exits      what each exit status means
    loading    a user's file or module            archives   `export`, `import`, `replay`
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and end it with the command's exit status."""
    from .commands import run_command_line

    sys.exit(run_command_line(sys.argv[1:]))
