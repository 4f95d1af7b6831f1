"""Functions that travel as text: pickled, by value where they are the user's own, and signed. Nothing else unpickles.

Laws.
1. Not a byte is unpickled before its signature has been checked. Who can write to the store or the broker but has no
   key runs no code here; who has a key can run any, on every process that has it too.
2. A text is `v1:PURPOSE:PYTHON:CLOUDPICKLE:KEY:PICKLE:SIGNATURE`. The signature, HMAC-SHA256, covers the workspace and
   all of the text before it, as it is written: any other text is refused, and so is this one elsewhere.
3. A pickle by value holds bytecode: only the Python (major.minor) that made it loads it.
4. There is no default key, and no way around the check. Without keys no function travels.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import re
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final, Literal, NoReturn, get_args

from durable.model.errors import PayloadError
from durable.model.failure import type_name

Purpose = Literal["condition", "action"]

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
LARGEST_PICKLE: Final = 256 * 1024  # bytes: code, not data
EXTRA: Final = "pip install 'durable-orchestrations[pickle]'"
MAKE_A_KEY: Final = 'python -c "import secrets; print(secrets.token_hex(32))"'
_WHERE_KEYS_GO: Final = "connect(signing_keys=[...]) or DURABLE_PICKLE_KEYS"
_KEY: Final = re.compile("(?:[0-9a-fA-F]{2}){32,}")
_FORM: Final = re.compile(
    rf"(?P<signed>v1:(?P<purpose>{'|'.join(get_args(Purpose))}):(?P<python>[0-9]\.[0-9]+):(?P<cloudpickle>[\w.+-]+)"
    r":(?P<key>[0-9a-f]{8}):(?P<pickle>[\w-]+={0,2})):(?P<signature>[0-9a-f]{64})",
    re.ASCII,
)
_LONGEST_TEXT: Final = LARGEST_PICKLE * 4 // 3 + 400
_registering: Final = threading.RLock()  # what is pickled by value is a setting of the whole process


class KeyRing:
    """The secret keys by which functions are signed: the first signs, all of them verify.

    To rotate, put the new key first everywhere, then take the old one out once nothing signed by it is left.

    keys: text, each at least 64 hexadecimal digits (32 bytes). Raises ValueError for others, never showing them.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError(f"no signing key was given; make one by: {MAKE_A_KEY}")
        self._keys: Final = [_key(text, f"signing key {at} of {len(keys)}") for at, text in enumerate(keys, 1)]

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """From one key, or several separated by commas. Raises ValueError as above."""
        return cls(text.split(","))

    @property
    def fingerprints(self) -> list[str]:
        """What keys are called in texts and messages: 8 digits that don't give them away."""
        return [hashlib.sha256(b"durable signing key" + key).hexdigest()[:8] for key in self._keys]

    def sign(self, message: bytes) -> str:
        """The signature of the first key, as 64 hexadecimal digits."""
        return _signature(self._keys[0], message)

    def verifies(self, message: bytes, signature: str) -> bool:
        """Whether one of the keys made this signature (ASCII) of this message."""
        return any(hmac.compare_digest(_signature(key, message), signature) for key in self._keys)

    def __repr__(self) -> str:
        signs, *verify = self.fingerprints
        return f"<KeyRing: {signs} signs{', ' * bool(verify)}{', '.join(verify)}>"

    def __reduce__(self) -> NoReturn:
        # A function that holds a client must not carry its keys into the store.
        raise TypeError("signing keys are secret, and are not pickled")


def _key(text: object, which: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{which} must be text, not {type(text).__name__}")
    text = text.strip()
    if not _KEY.fullmatch(text):
        raise ValueError(
            f"{which} has {len(text)} characters; it takes at least 64, an even number of hexadecimal digits "
            f"(0-9, a-f). Make one by: {MAKE_A_KEY}"
        )
    return bytes.fromhex(text)


def _signature(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def sign_callable(fn: Callable[..., Any], keys: KeyRing | None, workspace: str, purpose: Purpose) -> str:
    """`fn` as text, which `load_callable` makes a callable again under the same workspace and purpose.

    By value go lambdas, nested functions, what a script (`__main__`) or a notebook defines, and the functions and
    classes in the module of `fn` where that is the user's own: neither of the standard library nor installed below a
    `site-packages`. With them go the variables they close over and the globals they use, as these are now. All else
    goes by reference: other modules, and functions of installed packages, are imported where it is loaded.

    Raises TypeError for what can't be called; PayloadError without keys, without cloudpickle, for what can't be pickled
    and for what is larger than 256 KiB with all it holds.
    """
    if not callable(fn):
        raise TypeError(f"a {purpose} must be a function, not {type(fn).__name__}")
    ring, cloudpickle = _needed(keys), _cloudpickle()
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    module = getattr(inner, "__module__", None) or "builtins"
    where = f"{purpose} {module}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    try:
        pickled = _pickled(cloudpickle, fn, sys.modules.get(module))
    except Exception as error:  # whatever the objects it holds raise
        raise PayloadError(
            f"{where} can't be pickled with what it holds: {_said(error)}. Let it open what it needs itself"
        ) from error
    if len(pickled) > LARGEST_PICKLE:
        raise PayloadError(
            f"{where} takes {len(pickled):,} bytes with what it holds, and {LARGEST_PICKLE:,} are allowed; "
            "let it read large data where it runs"
        )
    written = base64.urlsafe_b64encode(pickled).decode()
    signed = f"v1:{purpose}:{PYTHON}:{cloudpickle.__version__}:{ring.fingerprints[0]}:{written}"
    return f"{signed}:{ring.sign(_message(workspace, signed))}"


def load_callable(text: object, keys: KeyRing | None, workspace: str, purpose: Purpose) -> Callable[..., Any]:
    """The callable that `sign_callable` made this text of.

    Raises PayloadError without keys or cloudpickle; for what is no such text, or signed by a key that is not in `keys`,
    for another workspace or purpose, or under another Python; and for what can't be loaded here.
    """
    ring = _needed(keys)
    found = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST_TEXT else None
    if found is None:
        raise PayloadError(f"a {purpose} that is not signed is not run: sign it by python(fn)")
    if not ring.verifies(_message(workspace, found["signed"]), found["signature"]):
        raise PayloadError(f"a signed {purpose} is refused: {_why_refused(found['key'], ring, workspace)}")
    if found["purpose"] != purpose:
        raise PayloadError(f"what was signed as {found['purpose']} is refused as {purpose}: sign it as what it is for")
    if found["python"] != PYTHON:
        raise PayloadError(
            f"a {purpose} signed under Python {found['python']} can't run under Python {PYTHON}: "
            f"sign it under {PYTHON}, or run this process under {found['python']}"
        )
    cloudpickle = _cloudpickle()
    try:
        fn: object = cloudpickle.loads(base64.urlsafe_b64decode(found["pickle"]))
    except Exception as error:  # whatever the objects it holds raise
        raise PayloadError(
            f"a signed {purpose} can't be loaded here: {_said(error)}. What it imports must be installed here; "
            f"it was signed with cloudpickle {found['cloudpickle']}, this is {cloudpickle.__version__}"
        ) from error
    if not callable(fn):
        raise PayloadError(f"a signed {purpose} became no function here but {type_name(type(fn))}")
    return fn


def _message(workspace: str, signed: str) -> bytes:
    """What a signature is of: `signed` begins where the length says that the workspace ends."""
    name = workspace.encode()
    return b"durable callable %d:%b%b" % (len(name), name, signed.encode())


def _why_refused(key: str, ring: KeyRing, workspace: str) -> str:
    known = ring.fingerprints
    if key not in known:
        return f"its key {key} is not here, only {', '.join(known)}; add that key to {_WHERE_KEYS_GO}"
    return f"its signature does not fit in workspace {workspace!r}; it was signed for another one, or changed since"


def _needed(keys: KeyRing | None) -> KeyRing:
    if keys is None:
        raise PayloadError(
            f"functions travel only signed, and there are no keys: give {_WHERE_KEYS_GO} the same keys in all "
            f"processes. Make one by: {MAKE_A_KEY}"
        )
    return keys


def _cloudpickle() -> Any:
    try:
        # Only here: who ships no functions need not have it.
        import cloudpickle  # type: ignore[import-untyped]  # cloudpickle 3 has no py.typed
    except ImportError as error:
        raise PayloadError(f"functions travel by the package cloudpickle, which is not installed: {EXTRA}") from error
    return cloudpickle


def _pickled(cloudpickle: Any, fn: Callable[..., Any], module: ModuleType | None) -> bytes:
    with _registering:
        by_value = (
            module is not None
            and not _is_installed(module)
            and module.__name__ not in cloudpickle.list_registry_pickle_by_value()  # by the user, who keeps it so
        )
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        try:
            pickled: bytes = cloudpickle.dumps(fn)
            return pickled
        finally:
            if by_value:
                cloudpickle.unregister_pickle_by_value(module)


def _is_installed(module: ModuleType) -> bool:
    folders = (getattr(module, "__file__", None) or "").split("/")
    return (
        module.__name__.partition(".")[0] in sys.stdlib_module_names
        or "site-packages" in folders
        or "dist-packages" in folders
    )


def _said(error: Exception) -> str:
    return f"{type_name(type(error))}: {error}"
