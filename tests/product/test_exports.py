"""The public names: exactly these, each one found, each one documented."""

from __future__ import annotations

import builtins
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import cloudevents.core.v1.event
import pytest

import durable
import durable.model.errors

ROOT = Path(__file__).resolve().parents[2]

NAMES = """
    activity orchestrator activity_ref orchestrator_ref Registry default_registry
    ActivityContext OrchestrationContext Task RetryPolicy
    connect start_orchestration Client OrchestrationHandle Worker Limits
    connect_async AsyncClient AsyncOrchestrationHandle
    OrchestrationStatus RuntimeStatus HistoryEvent FailureDetails Page CloudEvent
    Codec register_type
    action condition actions conditions EventPattern Trigger TriggerContext AddedTriggers DeadLetter
""".split()
ERRORS = """
    DurableError InstanceNotFoundError InstanceExistsError InstanceFinishedError InstanceNotFinishedError
    InvalidStateError OrchestrationFailedError OrchestrationTerminatedError OrchestrationCancelledError
    OrchestrationBlockedError TaskFailedError TaskCancelledError NonRetryableError
    TimeoutError PayloadError LimitError DuplicateNameError StoreError TransportError
    TriggerExistsError TriggerNotFoundError
""".split()


def test_these_names_and_no_others_are_public() -> None:
    assert sorted(durable.__all__) == sorted(NAMES + ERRORS)


def test_dir_shows_what_all_promises() -> None:
    assert sorted(n for n in dir(durable) if not n.startswith("_")) == sorted(durable.__all__)


def test_a_star_import_brings_them_all() -> None:
    code = "import durable\nfrom durable import *\nassert not set(durable.__all__) - set(globals())"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", NAMES + ERRORS)
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(durable, name)
    assert found is getattr(durable, name)
    if name == "CloudEvent":
        return  # the SDK's, documented there
    tells = inspect.isclass(found) or inspect.isfunction(found) or inspect.ismodule(found)
    described = found if tells else type(found)
    doc = described.__doc__
    assert doc, name
    assert doc.strip(), name
    assert not doc.startswith(f"{name}("), f"{name} has the docstring that dataclass wrote"


def test_the_error_tree_is_exported_whole() -> None:
    tree = durable.model.errors
    public = {n: e for n, e in vars(tree).items() if not n.startswith("_")}
    classes = {n for n, e in public.items() if inspect.isclass(e) and issubclass(e, tree.DurableError)}
    assert classes == set(ERRORS)
    assert {getattr(durable, name).__module__ for name in ERRORS} == {"durable"}


def test_errors_are_also_the_builtin_that_people_catch() -> None:
    assert issubclass(durable.TimeoutError, builtins.TimeoutError)
    assert issubclass(durable.PayloadError, ValueError)


def test_cloud_event_is_the_class_of_the_sdk() -> None:
    assert durable.CloudEvent is cloudevents.core.v1.event.CloudEvent


def test_the_version_is_that_of_the_distribution() -> None:
    code = "import sys, durable; assert 'importlib.metadata' not in sys.modules; print(durable.__version__, end='')"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said == importlib.metadata.version("durable-orchestrations") == durable.__version__
    assert "__version__" not in durable.__all__  # `import *` brings names to use


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"durable.*no_such_name"):
        durable.no_such_name  # type: ignore[attr-defined]  # noqa: B018  # what is asked is who raises
