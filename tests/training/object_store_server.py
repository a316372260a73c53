"""An object store that answers on this machine, as a process of its own: `python object_store_server.py PORT FOLDER`.

It speaks S3's protocol on the loopback interface and has one bucket, `desk`. Where FOLDER is named, what it holds is
kept there when it is ended by SIGTERM and is there again when it starts: a store that was away.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "desk"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def serve(port: int, folder: Path | None) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    client = _client(port)
    client.create_bucket(Bucket=BUCKET)
    for path in folder.rglob("*") if folder is not None else ():
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("READY", flush=True)
    ended.wait()
    if folder is not None:
        keep(port, folder)


def keep(port: int, folder: Path) -> None:
    """Everything in the bucket, as files."""
    client = _client(port)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", []):
            if not found["Key"].endswith("/"):
                path = folder / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(client.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read())


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

    def __init__(self, folder: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self.variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **CREDENTIALS}
        self.start()

    def start(self) -> None:
        words = [sys.executable, __file__, str(self.port), *([str(self._folder)] if self._folder else [])]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "READY"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def keys(self) -> list[str]:
        """Of every object in the bucket."""
        pages = _client(self.port).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


@contextlib.contextmanager
def running(folder: Path | None = None) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
