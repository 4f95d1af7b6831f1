"""Floor 2: the orchestrator's code meets its history. Tasks, the context that user code sees, the replay of one
execution, and the mismatch between the two. Pure: the same history and the same code give the same commands."""
