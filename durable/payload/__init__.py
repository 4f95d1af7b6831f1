"""Payloads: what crosses between functions, as canonical JSON encoded and decoded by type hints. No I/O, no clock."""
