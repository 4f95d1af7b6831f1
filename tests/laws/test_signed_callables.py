"""The laws of functions that travel as text: only what a key signed, for here and for this, is ever unpickled."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import importlib
import json
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import cloudpickle  # type: ignore[import-untyped]  # cloudpickle 3 has no py.typed
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.app.plugins import key_ring_or_default
from durable.model.errors import PayloadError
from durable.payload import signed_callables
from durable.payload.signed_callables import PYTHON, KeyRing, Purpose, load_callable, sign_callable

OLD, NEW, OTHER = "0a" * 32, "1B" * 40, "2c" * 32
RING = KeyRing([NEW, OLD])


class Bait:
    """A callable that makes a file where it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.made,)


def sign(fn: Callable[..., Any], purpose: Purpose = "condition") -> str:
    return sign_callable(fn, RING, "shop", purpose)


def load(text: object, keys: KeyRing | None = RING, workspace: str = "shop", purpose: Purpose = "condition") -> Any:
    return load_callable(text, keys, workspace, purpose)


def forged(key: str, purpose: str, pickled: bytes) -> str:
    """What a stranger makes who knows the form and has a key of their own; `key` is how they say it is called."""
    signed = f"v1:{purpose}:{PYTHON}:3.1.3:{key}:{base64.urlsafe_b64encode(pickled).decode()}"
    message = b"durable callable 4:shop" + signed.encode()
    return f"{signed}:{hmac.new(bytes.fromhex(OTHER), message, hashlib.sha256).hexdigest()}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bait") / "made"


@pytest.fixture(scope="module")
def bait(made: Path) -> str:
    """A signed text; `made` is there once it was unpickled, as it is by who has the key."""
    text = sign(Bait(made))
    with pytest.raises(PayloadError, match="became no function here but NoneType"):
        load(text)
    made.unlink()
    return text


def refused(text: object, made: Path, keys: KeyRing | None = RING, match: str | None = None) -> None:
    with pytest.raises(PayloadError, match=match):
        load(text, keys)
    assert not made.exists()


@given(st.data())
def test_whatever_is_changed_is_refused_and_nothing_is_unpickled(bait: str, made: Path, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(bait) - 1) | st.integers(0, 60) | st.integers(len(bait) - 70, len(bait) - 1))
    in_its_place = data.draw(st.characters() | st.sampled_from(":=-_09azAZ. \n") | st.just(""))
    changed = bait[:at] + in_its_place + bait[at + 1 :]
    if changed != bait:
        refused(changed, made)
    refused(bait[:at] + "0" + bait[at:], made)
    refused(bait[:at], made)


def test_each_single_bit_counts(bait: str, made: Path) -> None:
    for at in range(len(bait)):
        for bit in range(7):
            refused(bait[:at] + chr(ord(bait[at]) ^ 1 << bit) + bait[at + 1 :], made)


@pytest.mark.parametrize(
    "keys", [KeyRing([OTHER]), KeyRing([OTHER, OLD])], ids=["another", "the one that only verifies"]
)
def test_who_lacks_the_key_unpickles_nothing(bait: str, made: Path, keys: KeyRing) -> None:
    known = ", ".join(keys.fingerprints)
    refused(bait, made, keys, f"its key {RING.fingerprints[0]} is not here, only {known}; add that key to connect")
    refused(bait, made, None, r"there are no keys: give connect\(signing_keys=\[...\]\) or DURABLE_PICKLE_KEYS")


def test_what_is_forged_is_refused(made: Path) -> None:
    pickled = cloudpickle.dumps(Bait(made))
    refused(forged(KeyRing([OTHER]).fingerprints[0], "condition", pickled), made, match="is not here")
    refused(
        forged(RING.fingerprints[0], "condition", pickled), made, match="signature does not fit in workspace 'shop'"
    )
    assert load(forged(KeyRing([OTHER]).fingerprints[0], "condition", pickle.dumps(len)), KeyRing([OTHER])) is len


@pytest.mark.parametrize(
    "cut",
    [
        lambda text: None,
        lambda text: {"signed": text},
        lambda text: text.encode(),
        lambda text: "",
        lambda text: "my_app.conditions:ready",
        lambda text: text.split(":")[5],
        lambda text: text.rpartition(":")[0],
        lambda text: text.rpartition(":")[0] + ":",
        lambda text: text[:-64] + text[-64:].upper(),
        lambda text: text[:-64] + text[-64:-32],
        lambda text: text + "00",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace("v1", "v0"),
        lambda text: text.replace("v1", "none"),
        lambda text: text.replace(":condition:", ":conditions:"),
        lambda text: text[:-65] + "A" * 1_000_000 + text[-65:],
    ],
)
def test_what_is_no_signed_text_is_refused(bait: str, made: Path, cut: Callable[[str], object]) -> None:
    refused(cut(bait), made, match="a condition that is not signed is not run")


def test_a_workspace_does_not_run_what_was_signed_in_another(bait: str, made: Path) -> None:
    for other in ("shop2", "sho", "", "shopv1", "Shop"):
        with pytest.raises(PayloadError, match=f"does not fit in workspace '{other}'; it was signed for another one"):
            load(bait, workspace=other)
    assert not made.exists()


def test_a_condition_is_no_action_and_an_action_no_condition(bait: str, made: Path) -> None:
    with pytest.raises(PayloadError, match="signed as condition is refused as action"):
        load(bait, purpose="action")
    refused(sign(Bait(made), "action"), made, match="signed as action is refused as condition")
    refused(bait.replace(":condition:", ":action:"), made)


def test_another_python_does_not_run_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(signed_callables, "PYTHON", "3.9")
        text = sign(Bait(made))
        assert text.startswith("v1:condition:3.9:")
    refused(text, made, match=rf"signed under Python 3\.9 can't run under Python {PYTHON}")
    refused(text.replace(":3.9:", f":{PYTHON}:"), made, match="signature does not fit")


def test_keys_rotate_without_a_refusal() -> None:
    before, during, after = KeyRing([OLD]), KeyRing([NEW, OLD]), KeyRing([NEW])
    old, new = (sign_callable(lambda: 1, ring, "shop", "action") for ring in (before, during))
    assert load(old, before, purpose="action")() == load(old, during, purpose="action")() == 1
    assert load(new, during, purpose="action")() == load(new, after, purpose="action")() == 1
    with pytest.raises(PayloadError, match=f"its key {before.fingerprints[0]} is not here"):
        load(old, after, purpose="action")


# What travels


limit = 3


def is_enough(count: int) -> bool:
    return _at_least(count, limit)


def _at_least(count: int, bound: int) -> bool:
    return count >= bound


class Enough:
    def __init__(self, bound: int) -> None:
        self.bound = bound

    def __call__(self, count: int) -> bool:
        return self.reached(count)

    def reached(self, count: int) -> bool:
        return _at_least(count, self.bound)


def closing_over(bound: int) -> Callable[[int], bool]:
    return lambda count: count >= bound


def elsewhere(text: str, call: str, folder: Path) -> Any:
    """What `call` gives for the `fn` of a signed text, in a new process that sees nothing of these tests."""
    code = f"""
import json, sys
from durable.payload.signed_callables import KeyRing, load_callable
fn = load_callable(sys.stdin.read(), KeyRing({[NEW]!r}), "shop", "condition")
assert not [name for name in sys.modules if name.startswith(("tests", "shop_"))]
print(json.dumps({call}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, input=text, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    "fn",
    [
        is_enough,
        lambda count: count >= limit,
        closing_over(3),
        functools.partial(_at_least, bound=3),
        Enough(3),
        Enough(3).reached,
    ],
    ids="function lambda closure partial instance method".split(),
)
def test_the_users_own_code_travels_by_value(fn: Callable[[int], bool], tmp_path: Path) -> None:
    assert elsewhere(sign(fn), "[fn(2), fn(3)]", tmp_path) == [False, True]
    assert not cloudpickle.list_registry_pickle_by_value()


def test_a_function_of_a_script_travels_by_value(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
            from durable.payload.signed_callables import KeyRing, sign_callable
            bound = 3
            class Counted(int): ...
            def enough(count):
                return Counted(count) >= bound
            print(sign_callable(enough, KeyRing({[NEW]!r}), "shop", "condition"), end="")
        """)
    )
    (away := tmp_path / "away").mkdir()
    text = subprocess.check_output([sys.executable, "script.py"], cwd=tmp_path, text=True, timeout=60)
    assert elsewhere(text, "[fn(2), fn(3)]", away) == [False, True]


@pytest.mark.parametrize("place", ["site-packages", "dist-packages"])
def test_installed_code_travels_by_reference(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(sign(textwrap.dedent)) is textwrap.dedent
    assert load(sign(len)) is len
    (folder := tmp_path / place).mkdir()
    (folder / "shop_rules.py").write_text("def enough(count): return count >= 3\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(folder)
        rules = importlib.import_module("shop_rules")
        text = sign(rules.enough)
        assert load(text) is rules.enough
    del sys.modules["shop_rules"]
    with pytest.raises(PayloadError, match="can't be loaded here: ModuleNotFoundError: No module named 'shop_rules'"):
        load(text)


def test_a_module_that_the_user_registered_stays_registered() -> None:
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        sign(is_enough)
        assert here.__name__ in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(here)


def test_threads_that_sign_at_once_do_not_change_how_the_others_pickle() -> None:
    expected, before = sign(is_enough), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(sign, [is_enough] * 400)) == {expected}
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("fn", [None, 1, "my_app:ready", sign(len)], ids=["None", "int", "name", "signed text"])
def test_what_is_no_function_is_not_signed(fn: Any) -> None:
    with pytest.raises(TypeError, match=f"a condition must be a function, not {type(fn).__name__}"):
        sign(fn)


def test_what_cannot_be_pickled_names_the_function_and_the_cause() -> None:
    lock = threading.Lock()

    def holds_a_lock() -> bool:
        return lock.locked()

    with pytest.raises(PayloadError, match=r"condition .*holds_a_lock can't be pickled .*TypeError: .*lock"):
        sign(holds_a_lock)
    with pytest.raises(PayloadError, match="signing keys are secret, and are not pickled"):
        sign(lambda: RING)
    assert not cloudpickle.list_registry_pickle_by_value()


def test_large_data_does_not_travel_within_a_function() -> None:
    small, large = bytes(200_000), bytes(300_000)
    assert load(sign(lambda: len(small)))() == 200_000
    with pytest.raises(PayloadError, match=r"condition .*<lambda> takes 300,\d{3} bytes .* 262,144 are allowed"):
        sign(lambda: len(large))


def test_the_largest_that_is_signed_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def size(data: bytes) -> int:
        return int(signed_callables.LARGEST_PICKLE - len(cloudpickle.dumps(functools.partial(len, data))))

    room = size(bytes(200_000))
    text = sign(functools.partial(len, bytes(200_000 + room)))
    assert load(text)() == 200_000 + room
    with pytest.raises(PayloadError, match="262,145 bytes"):
        sign(functools.partial(len, bytes(200_001 + room)))


def test_without_keys_or_cloudpickle_the_remedy_is_named(
    bait: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PayloadError, match=r"DURABLE_PICKLE_KEYS .* Make one by: python -c \"import secrets"):
        sign_callable(len, None, "shop", "action")
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    remedy = r"not installed: pip install 'durable-orchestrations\[pickle\]'"
    with pytest.raises(PayloadError, match=remedy):
        sign(len)
    refused(bait, made, match=remedy)


# Keys


@pytest.mark.parametrize("wrong", ["", "hunter2", "0a" * 31, "0a" * 32 + "0", "0g" * 32, "Zm9v" * 20, "0a " * 32])
def test_a_key_that_is_none_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"signing key 2 of 2 has .* at least 64, .* hexadecimal digits") as caught:
        KeyRing([OLD, wrong])
    assert "secrets.token_hex(32)" in str(caught.value)
    assert not wrong or wrong not in str(caught.value)
    assert OLD not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_ring_shows_how_many_keys_and_no_secret() -> None:
    signs, verifies = RING.fingerprints
    assert repr(RING) == str(RING) == f"<KeyRing: {signs} signs, {verifies}>"
    assert repr(KeyRing.parse(NEW)) == f"<KeyRing: {signs} signs>"
    assert len(signs) == len(verifies) == 8
    assert signs not in NEW.lower()
    assert not hasattr(RING, "__dict__")
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(RING)


def test_keys_come_from_the_call_or_the_environment_or_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DURABLE_PICKLE_KEYS", raising=False)
    assert key_ring_or_default(None) is None
    assert key_ring_or_default(RING) is RING
    monkeypatch.setenv("DURABLE_PICKLE_KEYS", "")
    assert key_ring_or_default(None) is None
    monkeypatch.setenv("DURABLE_PICKLE_KEYS", f"{NEW}, {OLD.upper()}\n")
    assert cast(KeyRing, key_ring_or_default(None)).fingerprints == RING.fingerprints
    assert cast(KeyRing, key_ring_or_default([OTHER])).fingerprints == KeyRing([OTHER]).fingerprints
    monkeypatch.setenv("DURABLE_PICKLE_KEYS", f"{NEW},")
    with pytest.raises(ValueError, match="DURABLE_PICKLE_KEYS: signing key 2 of 2 has 0 characters") as caught:
        key_ring_or_default(None)
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match="no signing key was given"):
        key_ring_or_default([])
    for wrong in (NEW, NEW.encode(), [NEW.encode()], {NEW}, 7):
        with pytest.raises(TypeError, match=r"signing.key") as refusal:
            key_ring_or_default(wrong)
        assert NEW not in str(refusal.value)
