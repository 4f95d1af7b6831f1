"""Floor 5: what users hold in their hands: decorators and registry, client and handles, the worker."""
