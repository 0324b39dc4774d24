"""Language models behind an OpenAI-compatible server (vLLM, llama.cpp, Ollama, SGLang or a service).

Only the address that the user gives is contacted: redirects are refused and no proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import time
from typing import Any
from urllib.parse import urlsplit

from CTGroundedVLMLib.errors import DependencyError, InputError

from .chat import BusyError, Messages, ReportFailure

_MAX_ANSWER_BYTES = 8 << 20
_CHECK_S = 10.0
_BUSY = {408, 425, 429, 500, 502, 503, 504, 529}


class OpenAIServer:
    """``POST {url}/chat/completions``, at temperature 0; a new connection per request, so that threads share nothing."""

    def __init__(
        self, url: str, model: str, *, key: str = "", timeout_s: float = 120.0, max_tokens: int = 1024
    ) -> None:
        """``url``: up to and with ``/v1`` (added where there is no path).

        Raises:
            InputError: no http(s) address, one that holds a password, or an impossible key.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"--server {url!r}: expected an address such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise InputError(
                "--server: the address holds a user name or password; give the key in an environment variable"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise InputError(
                f"--server {url!r}: {error}; expected an address such as http://localhost:8000/v1"
            ) from error
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, port
        if not (key.isascii() and key.isprintable()):
            raise InputError("the server's key holds characters that no key has; correct the environment variable")
        self._base = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._model, self._timeout_s, self._max_tokens = model, timeout_s, max_tokens
        self.url = f"{parts.scheme}://{parts.netloc}{self._base}"
        self.identity = model

    @property
    def is_local(self) -> bool:
        """Whether the address is this computer's own."""
        if self._host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self._host).is_loopback
        except ValueError:
            return False

    @property
    def is_encrypted(self) -> bool:
        """Whether what is sent is encrypted on its way."""
        return self._scheme == "https"

    def check(self) -> None:
        """Ask for the list of models, so that a wrong address is told before the work begins.

        Raises:
            DependencyError: nothing answers there, the key is refused, or the server lacks the model.
        """
        try:
            status, _, body = self._request("GET", "/models", None, min(self._timeout_s, _CHECK_S))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DependencyError(
                f"No server answers at {self.url} ({_reason(error)}). Start it, or correct --server."
            ) from error
        self._refuse(status, body)
        if status != 200:
            return  # not every server lists its models
        try:
            names = [entry["id"] for entry in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError):
            return
        if names and self._model not in names:
            known = ", ".join(map(str, names[:20]))
            raise DependencyError(
                f"The server at {self.url} has no model {self._model!r}; it has {known}. Correct --llm-model."
            )

    def complete(self, messages: Messages) -> str:
        """See ``ChatModel``."""
        payload = {"model": self._model, "messages": list(messages), "temperature": 0, "max_tokens": self._max_tokens}
        try:
            status, headers, body = self._request(
                "POST", "/chat/completions", json.dumps(payload).encode(), self._timeout_s
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BusyError(f"no answer from {self.url} ({_reason(error)})") from error
        if status in _BUSY:
            raise BusyError(f"the server answered HTTP {status}", _retry_after(headers))
        self._refuse(status, body)
        if status == 404:
            raise DependencyError(
                f"{self.url}/chat/completions does not exist (HTTP 404: {_excerpt(body)}). Correct --server or --llm-model."
            )
        if status != 200:
            raise ReportFailure(f"the server refused the request (HTTP {status}: {_excerpt(body)})")
        return _content(body)

    def _refuse(self, status: int, body: bytes) -> None:
        if 300 <= status < 400:
            raise DependencyError(
                f"{self.url} redirects to another address (HTTP {status}); give the final one as --server."
            )
        if status in (401, 403):
            raise DependencyError(
                f"{self.url} refuses the key (HTTP {status}: {_excerpt(body)}). Set it as --api-key-env says."
            )

    def _request(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        deadline = time.monotonic() + timeout_s
        connection = kind(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, self._base + path, body, self._headers)
            response = connection.getresponse()
            return response.status, response.headers, _read(response, deadline)
        finally:
            connection.close()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, bounded in size and time: the socket's own limit begins anew with every byte."""
    body = bytearray()
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    if response.length:
        raise http.client.IncompleteRead(bytes(body), response.length)
    return bytes(body)


def _content(body: bytes) -> str:
    try:
        choice: dict[str, Any] = json.loads(body)["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise BusyError(f"the server's answer has not the form of a chat completion: {_excerpt(body)}") from error
    if reason == "length":
        raise ReportFailure("the answer was cut off at its longest; raise --max-tokens")
    if not isinstance(content, str):
        raise BusyError("the server's answer holds no text")
    return content.encode("utf-8", "replace").decode()  # half a surrogate pair can be neither stored nor printed


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None  # a date, or nothing: our own waiting time will do
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
