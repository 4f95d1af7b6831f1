"""A pytest plugin for `make mutants`: a broken law fails soon, and always the same for the same mutant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, settings

EXAMPLES = 15

# No shrinking: nobody reads the example. No database: what one mutant fails on is nothing to the next one.
settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None, derandomize=True)
settings.load_profile("mutants")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Fewer examples. Hypothesis has no other way to say so of tests that say how many they want."""
    for item in items:
        law = getattr(item, "function", None)
        given = getattr(law, "_hypothesis_internal_use_settings", None)
        if given is not None:
            few = settings(given, max_examples=min(EXAMPLES, given.max_examples))
            law._hypothesis_internal_use_settings = few  # type: ignore[union-attr]  # see above
