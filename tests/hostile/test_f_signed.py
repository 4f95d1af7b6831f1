"""F: signed functions. Nearly all of it is in `test_signed_callables.py`; here is what needs a pickle made by hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle

import pytest

from durable import PayloadError
from durable.payload.signed_callables import PYTHON, KeyRing, load_callable

OURS, THEIRS = "0a" * 32, "1b" * 32


def bomb() -> bytes:
    """Lists in lists in lists, each twice: 2**30 of them once somebody walks through."""
    value: list[object] = []
    for _ in range(30):
        value = [value, value]
    pickled = pickle.dumps(value)
    assert len(pickled) < 400
    return pickled


def signed_by(key: str, named: str, pickled: bytes) -> str:
    text = f"v1:condition:{PYTHON}:3.1.3:{named}:{base64.urlsafe_b64encode(pickled).decode()}"
    message = b"durable callable 4:shop" + text.encode()
    return f"{text}:{hmac.new(bytes.fromhex(key), message, hashlib.sha256).hexdigest()}"


def test_case_108_a_pickle_that_grows_is_not_unpickled_by_who_did_not_sign_it() -> None:
    for named in (KeyRing([OURS]).fingerprints[0], KeyRing([THEIRS]).fingerprints[0]):
        with pytest.raises(PayloadError, match=r"does not fit|is not here"):
            load_callable(signed_by(THEIRS, named, bomb()), KeyRing([OURS]), "shop", "condition")
    with pytest.raises(PayloadError, match="became no function here but list"):  # nor walked through by who did
        load_callable(signed_by(OURS, KeyRing([OURS]).fingerprints[0], bomb()), KeyRing([OURS]), "shop", "condition")
