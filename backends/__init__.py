"""Stores, one module each, loaded by URL scheme through entry points and never imported by name."""

if __name__ != "durable.backends":
    raise ImportError(
        "import durable.backends, not backends: the folder at the top of the checkout is installed under that name"
    )
