"""A certificate of a server that listens on the loopback, signed by itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """Files in PEM form; the certificate is its own authority."""

    key: Path
    certificate: Path


def missing_openssl() -> str | None:
    """Why none can be made, and the remedy; None when one can."""
    return None if shutil.which("openssl") else "openssl is not on PATH: apt install openssl"


def make_certificate(folder: Path) -> Certificate:
    """For 127.0.0.1 and no other name, in two new files of the folder."""
    made = Certificate(folder / "key.pem", folder / "certificate.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", made.key, "-out", made.certificate], check=True, capture_output=True)
    return made
