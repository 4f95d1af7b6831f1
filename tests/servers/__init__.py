"""Real servers for the tests: on free loopback ports, with private data folders, ended with the run."""
