"""Floor 0: frozen facts and plain values. No I/O, no clock, no chance; imports nothing of this package above it."""
