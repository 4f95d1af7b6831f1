"""Floor 4: the loop that turns arrivals into commits, and the threads that do its I/O."""
