"""For those who write a backend, and for our own tests: the contracts of the ports, as pytest classes to inherit."""
