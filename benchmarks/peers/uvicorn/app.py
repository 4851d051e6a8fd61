"""Limits, not peers: what uvicorn does when the application does nothing but read the body.

`app` is an ASGI application that joins the chunks of the body. `BodyProtocol` does that in uvicorn's protocol, without
an ASGI task, which is the least that any fast path inside uvicorn has to do.
"""

import os

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REPLY = b'{"predictions": [[0.0]]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)


async def app(scope, receive, send):
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    len(b"".join(chunks))
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REPLY))],
        }
    )
    await send({"type": "http.response.body", "body": REPLY})


class BodyProtocol(HttpToolsProtocol):
    def on_message_begin(self):
        self.chunks = []

    def on_url(self, url):
        pass

    def on_header(self, name, value):
        pass

    def on_headers_complete(self):
        pass

    def on_body(self, body):
        self.chunks.append(body)

    def on_message_complete(self):
        len(b"".join(self.chunks))
        self.transport.write(HEAD + REPLY)


if __name__ == "__main__":
    uvicorn.run(
        "app:app",
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORTS"].split(",")[0]),
        workers=int(os.environ["BENCH_WORKERS"]),
        http=BodyProtocol if os.environ.get("BENCH_PROTOCOL") == "1" else "httptools",
        loop="uvloop",
        log_level="warning",
        lifespan="off",
    )
