"""A Weights & Biases service on this machine: it takes runs and their histories and forgets everything else.

It speaks what `wandb-core` asks of it: GraphQL for runs (`UpsertBucket`, `RunResumeStatus`) and the file stream for
histories, whose lines have offsets. What it does not know it refuses, as an older service would.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Taken:
    """One run. lines: of its history, by their place."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    upserts: int = 0
    finished: bool = False

    @property
    def bars(self) -> list[int]:
        return [self.lines[place]["bars"] for place in sorted(self.lines) if "bars" in self.lines[place]]

    @property
    def steps(self) -> list[int]:
        return [self.lines[place]["_step"] for place in sorted(self.lines)]


class Service:
    """runs: by id. address: for WANDB_BASE_URL."""

    def __init__(self) -> None:
        self.runs: dict[str, Taken] = {}
        self.asked: list[str] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    content = gzip.decompress(content)
                answer = service.answer(self.path, json.loads(content or b"{}"))
                self._said(json.dumps(answer).encode())

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self._said(b"")

            def do_GET(self) -> None:
                self._said(b"{}")

            def _said(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            return self._stream(path.split("/")[-2], asked)
        query, variables = asked.get("query", ""), asked.get("variables") or {}
        name = query.split("(")[0].split("{")[0].split()[-1] if query.split() else ""
        self.asked.append(name)
        made = getattr(self, f"_{name}", None)
        if made is None:
            return {"errors": [{"message": f"{name} is not known here"}]}
        return {"data": made(variables)}

    def _stream(self, run: str, asked: dict[str, Any]) -> dict[str, Any]:
        taken = self.runs.setdefault(run, Taken())
        history = (asked.get("files") or {}).get("wandb-history.jsonl", {})
        for number, line in enumerate(history.get("content", [])):
            taken.lines[history.get("offset", 0) + number] = json.loads(line)
        taken.finished = bool(asked.get("complete", taken.finished))
        return {}

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        taken = self.runs.get(variables["name"])
        bucket = None
        if taken is not None:
            tail = [json.dumps(taken.lines[place]) for place in sorted(taken.lines)[-1:]]
            bucket = {
                "name": variables["name"],
                "id": "bucket",
                "historyLineCount": len(taken.lines),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "summaryMetrics": tail[0] if tail else "{}",
                "config": "{}",
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
        return {"model": {"id": "project", "name": variables.get("project"), "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        taken = self.runs.setdefault(variables["name"], Taken())
        taken.upserts += 1
        taken.config |= json.loads(variables.get("config") or "{}")
        project = {"id": "project", "name": variables.get("project"), "entity": {"id": "1", "name": "me"}}
        bucket = {
            "id": "bucket",
            "name": variables["name"],
            "displayName": variables.get("displayName"),
            "historyLineCount": len(taken.lines),
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": taken.upserts == 1}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.address}/upload"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    service = Service()
    try:
        yield service
    finally:
        service.stop()
