"""An object store that answers on this machine, as a process of its own: `python object_store_server.py PORT`.

It speaks S3's protocol on the loopback interface and has one bucket, `desk`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "desk"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def serve(port: int) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    _client(port).create_bucket(Bucket=BUCKET)
    print("READY", flush=True)
    signal.pause()


def _client(port: int):
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )


class Server:
    """The server as a process. variables: what a client's environment needs."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **CREDENTIALS}
        words = [sys.executable, __file__, str(self.port)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "READY"

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Answer nothing meanwhile, as behind a network that is gone."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def put(self, key: str, content: bytes) -> None:
        """An object under any key, as a stranger may write it."""
        _client(self.port).put_object(Bucket=BUCKET, Key=key, Body=content)

    def remove(self, key: str) -> None:
        _client(self.port).delete_object(Bucket=BUCKET, Key=key)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.end()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
