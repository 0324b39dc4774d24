"""A small OpenAI-compatible server on this computer, whose answers a test decides."""

import contextlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "test-model"


@dataclass
class Reply:
    """``text`` as a chat completion; or ``body`` as it is. ``delay_s``: before anything is sent."""

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str = "stop"


class ChatServer:
    """``answer(prompt, number) -> Reply | str``: the last message's text, and how often that prompt has come (from 1)."""

    def __init__(self, answer, models=(MODEL,)):
        self.answer, self.models = answer, models
        self.requests, self.headers, self.counts = [], [], {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"chat": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self.paths = []

    def reply_to(self, payload, headers) -> Reply:
        prompt = payload["messages"][-1]["content"]
        with self._lock:
            self.requests.append(payload)
            self.headers.append(headers)
            self.counts[prompt] = self.counts.get(prompt, 0) + 1
            number = self.counts[prompt]
        reply = self.answer(prompt, number)
        return Reply(reply) if isinstance(reply, str) else reply


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer

    def do_GET(self):  # the handler's own naming
        self.chat.paths.append(self.path)
        if self.chat.models is None:
            self._send(Reply(status=404, body=b"no such page"))
        else:
            self._send(Reply(body=json.dumps({"data": [{"id": name} for name in self.chat.models]}).encode()))

    def do_POST(self):
        self.chat.paths.append(self.path)
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed or has timed out
            self._send(self.chat.reply_to(payload, dict(self.headers)))

    def _send(self, reply):
        time.sleep(reply.delay_s)
        choice = {"message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish_reason}
        body = reply.body if reply.body is not None else json.dumps({"choices": [choice]}).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def running(answer, models=(MODEL,)):
    """The server, until the block ends."""
    server = ChatServer(answer, models)
    thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join(5)


WORDS = {"lung": "lung|pleura|effusion|nodule", "heart": "heart|cardio", "esophagus": "esophag", "aorta": "aort"}
ORGAN = re.compile(r"this organ(?: only)?: (\w+)|Description of the (\w+) in")


def reader(prompt: str, number: int = 1) -> str:
    """A simple but complete language model for fvlm4's organs: finds sentences by words, normal by "no" and "normal"."""
    organ = next(filter(None, ORGAN.search(prompt).groups()))
    if prompt.startswith("Description"):
        told = prompt.split("\n")[1]
        return "normal" if re.search(r"\b(no|normal|unremarkable)\b", told, re.IGNORECASE) else "abnormal"
    report = prompt.split("\n", 1)[1].rsplit("\n\n", 1)[0]
    found = [s.strip() for s in re.split(r"(?<=\.)\s+|\n", report) if re.search(WORDS[organ], s, re.IGNORECASE)]
    if "yes or no" in prompt:
        return "yes" if found else "no"
    return f"{organ}: {' '.join(found)}" if found else "NONE"
