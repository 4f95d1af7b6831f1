"""A RabbitMQ broker of the tests' own: loopback only, its own cookie, its own epmd, nothing in the user's home."""

from __future__ import annotations

import random
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from .certificate import Certificate
from .process import HOST, ServerFailed, ServerProcess, free_port

# /usr/sbin has a script of the same name that changes to the user `rabbitmq`, or refuses.
PLACES: Final = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/lib/rabbitmq/bin"))
CONTROL_SECONDS: Final = 60
_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME: Final = b"\x01"


def _programs() -> Path | None:
    return next((place for place in PLACES if (place / "rabbitmq-server").exists()), None)


def missing_rabbitmq() -> str | None:
    """Why there is no RabbitMQ to test with, and the remedy; None when there is one."""
    if _programs() and shutil.which("epmd"):
        return None
    return "there is no rabbitmq-server: apt install rabbitmq-server, or make servers"


class RabbitServer(ServerProcess):
    """User `guest` with password `guest`, virtual host `/`. Start and restart take four to nine seconds.

    certificate: it listens for amqps:// with this one, and for nothing else.
    """

    name = "rabbitmq"
    start_seconds = 60.0

    def __init__(self, certificate: Certificate | None = None) -> None:
        self._certificate = certificate
        # Below the ports that connections come from: while the broker is down nobody else may take its port.
        self._low = random.randrange(20_000, 32_000, 10)
        super().__init__(free_port(self._low, self._low + 7))
        self._epmd_port = free_port(self.port + 1, self._low + 8)
        self._dist_port = free_port(self._epmd_port + 1, self._low + 9)
        programs = _programs()
        if programs is None:
            raise ServerFailed(str(missing_rabbitmq()))
        self._programs = programs

    def url(self, vhost: str = "/", port: int | None = None) -> str:
        """Of one of its virtual hosts; `port`: that of a proxy before it."""
        scheme = "amqps" if self._certificate else "amqp"
        return f"{scheme}://guest:guest@{HOST}:{port or self.port}/{quote(vhost, safe='')}"

    def command(self) -> Sequence[str]:
        # An epmd in our own process group ends with us; the one that Erlang starts by itself outlives everybody.
        epmd = shlex.join(["epmd", "-port", str(self._epmd_port), "-address", HOST])
        return ["/bin/sh", "-c", f"{epmd} & exec {shlex.quote(str(self._programs / 'rabbitmq-server'))}"]

    def environment(self) -> Mapping[str, str]:
        folder = self.folder
        return {
            "HOME": str(folder),  # the cookie lives there
            "RABBITMQ_NODENAME": f"durable{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._dist_port + 1),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._low + 10),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "rabbit.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script then becomes the broker: signals and kill -9 reach it
        }

    def prepare(self) -> None:
        for name in ("mnesia", "log", "schema", "generated"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"{self._listeners()}"
            "log.file.level = warning\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
        )

    def _listeners(self) -> str:
        if self._certificate is None:
            return f"listeners.tcp.default = {HOST}:{self.port}\n"
        key, certificate = self._certificate
        return (
            f"listeners.tcp = none\nlisteners.ssl.default = {HOST}:{self.port}\n"
            f"ssl_options.cacertfile = {certificate}\nssl_options.certfile = {certificate}\n"
            f"ssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
        )

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((HOST, self.port), timeout=0.5)
        if self._certificate is None:
            return plain
        return ssl.create_default_context(cafile=str(self._certificate.certificate)).wrap_socket(
            plain, server_hostname=HOST
        )

    def ready(self) -> bool:
        """It has begun an AMQP handshake: the port alone opens earlier."""
        try:
            with self._connect() as connection:
                connection.sendall(_PROTOCOL_HEADER)
                return connection.recv(1) == _METHOD_FRAME
        except OSError:
            return False

    def knows_queue(self, queue: str) -> bool:
        """Whether it is on disk that there is this quorum queue (of `/`): one that is not is broken after kill -9.

        RabbitMQ 3.10 says so nowhere else, and writes it up to two seconds after it has answered the declaration.
        """
        registers = (self.folder / "mnesia").glob("*/quorum/*/names.dets")
        return any(f"%2F_{queue}".encode() in register.read_bytes() for register in registers)

    def control(self, *arguments: str) -> str:
        """`rabbitmqctl` with these arguments: what it says. One call takes more than a second."""
        done = subprocess.run(
            [str(self._programs / "rabbitmqctl"), *arguments],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment()},
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"rabbitmqctl {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout
