"""A container that does what it is told: `python sagemaker_container.py PORT FOLDER`.

A request's custom attributes, or else FOLDER/do, say what comes of it: see `invoke`. FOLDER/ping has the status that /ping answers (hang: it
answers after 30 s), FOLDER/parameters the body of /execution-parameters; each start leaves a line in FOLDER/starts, each
request to /invocations one in FOLDER/calls.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
SESSION = "X-Amzn-SageMaker-Session-Id"
LONG = re.compile(rb"(.)\1{9,}")
# So many models fit into it.
ROOM = 2
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    requests = 0
    models: dict[str, str] = {}  # noqa: RUF012 - of all connections

    def do_GET(self) -> None:
        if self.path == "/ping":
            said = (self.folder / "ping").read_text()
            if said == "hang":
                time.sleep(30)
            self.answer(200 if said == "hang" else int(said), b"")
        elif self.path == "/execution-parameters" and (self.folder / "parameters").exists():
            self.answer(200, (self.folder / "parameters").read_bytes())
        else:
            self.answer(404, b"no such path")

    def do_POST(self) -> None:
        self.requests += 1
        body = self.body()
        if self.path == "/models":
            self.load(json.loads(body))
            return
        if self.path.startswith("/models/") and self.path.split("/")[2] not in self.models:
            self.answer(404, b"not loaded")
            return
        with lock, (self.folder / "calls").open("a") as calls:
            calls.write(json.dumps({"body": body[:1000].decode("latin-1"), "length": len(body), **self.about()}) + "\n")
        said = self.folder / "do"
        default = said.read_text() if said.exists() else "echo"
        self.invoke(body, *self.headers.get(ATTRIBUTES, default).split(" "))

    def about(self) -> dict[str, object]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return {"headers": headers, "request_on_connection": self.requests, "path": self.path}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def load(self, asked: dict[str, str]) -> None:
        name, folder = asked["model_name"], Path(asked["url"])
        with lock, (self.folder / "loads").open("a") as loads:
            loads.write(f"{folder.name}\n")
        while (folder / "slow").exists():
            time.sleep(0.02)
        if (folder / "broken").exists():
            self.answer(500, b"no model in it")
        elif name in self.models:
            self.answer(409, b"there already")
        elif len(self.models) == ROOM:
            self.answer(507, b"no room")
        else:
            self.models[name] = folder.name
            self.answer(200, b"{}")

    def do_DELETE(self) -> None:
        gone = self.models.pop(self.path.split("/")[2], None)
        with lock, (self.folder / "loads").open("a") as loads:
            loads.write(f"-{gone}\n")
        self.answer(200 if gone else 404, b"{}")

    def invoke(self, body: bytes, what: str, *words: str) -> None:
        if what == "status":
            self.answer(int(words[0]), " ".join(words[1:]).encode(), "text/plain")
        elif what == "sleep":
            time.sleep(float(words[0]))
            self.answer(200, b"late")
        elif what == "size":
            self.answer(200, b"a" * int(words[0]), "application/octet-stream")
        elif what == "attributes":
            self.answer(200, b"{}", headers={ATTRIBUTES: " ".join(words)})
        elif what == "session":
            begun = self.headers.get(SESSION) == "NEW_SESSION"
            name = "New-Session-Id" if begun else "Closed-Session-Id"
            value = "session-1; Expires=2026-11-21T12:00:00Z" if begun else self.headers.get(SESSION, "")
            self.answer(200, b"{}", headers={f"X-Amzn-SageMaker-{name}": value})
        elif what in ("stream", "broken-stream", "endless-stream"):
            self.stream(what, words)
        elif what == "cut":
            self.answer(200, b"half", length=100)
            self.close_connection = True
        elif what == "close":
            self.close_connection = True
        elif what == "not-http":
            self.wfile.write(b"SSH-2.0-nonsense\r\n\r\n")
            self.close_connection = True
        elif what == "closing":
            self.answer(200, b"bye", headers={"Connection": "close"})
        elif what == "exit":
            os._exit(7)
        elif what == "forget":
            self.models.clear()
            self.answer(200, b"{}")
        elif what == "squeeze":
            self.answer(200, b"<" + LONG.sub(lambda run: b"%s%d" % (run[1], len(run[0])), body) + b">")
        elif what == "lines":
            self.answer(200, b"".join(words[0].encode() % len(line) + b"\n" for line in body.splitlines()))
        elif what == "constant":
            self.answer(200, " ".join(words).encode())
        elif what == "refuse":
            is_bad = words[1].encode() in body
            self.answer(int(words[0]) if is_bad else 200, b"a bad record" if is_bad else body)
        elif what == "flaky":
            with lock:
                times = len((self.folder / "calls").read_text().splitlines())
            self.answer(int(words[0]) if times <= int(words[1]) else 200, b"fine")
        else:
            seen = {**self.about(), "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            self.answer(200, json.dumps(seen).encode())

    def stream(self, what: str, words: tuple[str, ...]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header(ATTRIBUTES, "streamed")
        self.end_headers()
        for word in words:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(word), word.encode()))
            # The reader decides when there is more: it says so by a file.
            while what == "stream" and (self.folder / "hold").exists():
                time.sleep(0.01)
        if what == "endless-stream":
            time.sleep(30)
        if what == "broken-stream":
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def answer(
        self, status: int, body: bytes, content_type: str = "application/json", *, length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # With the five that it has by itself, connections wait for longer than the platform does.
    request_queue_size = 128


def main(port: int, folder: Path) -> None:
    Handler.folder = folder
    if not (folder / "ping").exists():
        (folder / "ping").write_text("200")
    with (folder / "starts").open("a") as starts:
        starts.write(
            json.dumps({name: os.environ[name] for name in os.environ if name.startswith("SAGEMAKER_")}) + "\n"
        )
    print("the container has begun", flush=True)
    server = Server(("127.0.0.1", port), Handler)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
