"""Triggers: events, a condition, an action, a context. Pure: no I/O, no clock, no engine."""
