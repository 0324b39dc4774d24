"""The long-lived inference process: ``python -m CTGroundedVLMLib.worker``. Keeps the model and the encoded image.

Requests are JSON lines on stdin: {"id": 1, "name": "analyze", "arguments": {...}}; ``worker_requests`` answers them one after
the other. Events are JSON lines on what was stdout when the process began::

    {"event": "started", "pid": 42}, then {"event": "ready"}
    {"event": "progress", "id": null, "stage": "import", "fraction": 0.0}    each second between these two: a sign of life
    {"event": "progress", "id": 1, "stage": "encode image", "fraction": 0.15}
    {"event": "result", "id": 1, "value": {...}}
    {"event": "error", "id": 1, "kinds": ["VolumeError", "InputError", ...], "message": "..."}

Whatever else is printed goes to stderr, which is the log. A thread of its own reads stdin: at its end (whoever asked is gone, or
has closed it to cancel) and at "cancel", the process ends at once, and its children with it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TextIO

from .command_line import quiet_libraries
from .errors import CTGroundedVLMError, DependencyError, ResourceError

try:
    import psutil  # at once: when the process is to end, another thread may be in the middle of an import
except ImportError:
    psutil = None

HEAVY = "worker_requests"  # imported after "started": takes seconds, because torch comes with it
OUT_OF_MEMORY = (
    "Not enough memory for this request. Choose the shared mode, or the CPU instead of a GPU, close other programs, or crop the "
    "volume; then try again."
)
PARENT_POLL_S = 1.0


class Channel:
    """The private ways in and out; the usual ones are redirected so that nothing stray can reach them."""

    def __init__(self, requests: TextIO, events: TextIO) -> None:
        self.requests, self._events = requests, events
        self._lock = threading.Lock()

    @classmethod
    def take_over(cls) -> Channel:
        """Duplicate stdin and stdout for this process alone, then point them at nothing and at stderr."""
        requests = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="replace", newline="\n")
        events = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(requests, events)

    def send(self, event: str, **content: Any) -> None:
        """Write one event; ends the process where nobody listens any more."""
        line = json.dumps({"event": event, **content}) + "\n"
        try:
            with self._lock:
                self._events.write(line)
                self._events.flush()
        except OSError:
            end_process()


def main() -> int:
    """Serve requests until "close" or the end of stdin."""
    channel = Channel.take_over()
    with contextlib.suppress(AttributeError, OSError):  # Windows has none; a leader of a group has one already
        os.setsid()  # a group of its own, that can be ended as a whole
    quiet_libraries()
    channel.send("started", pid=os.getpid())
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_watch_requests, args=(channel, requests), daemon=True).start()
    ready = threading.Event()
    threading.Thread(target=_watch_parent, args=(os.getppid(), channel, ready), daemon=True).start()
    with contextlib.suppress(ImportError):  # said again, with the remedy, when a request needs it
        _import_handlers()
    ready.set()
    channel.send("ready")
    handlers: Mapping[str, Any] | None = None
    while True:
        request = requests.get()
        if request["name"] == "close":
            return 0
        handlers = _serve(channel, request, handlers)


def _watch_requests(channel: Channel, requests: queue.Queue[dict[str, Any]]) -> None:
    for line in channel.requests:
        try:
            request = json.loads(line)
            request = {"id": request["id"], "name": request["name"], "arguments": dict(request.get("arguments") or {})}
        except (ValueError, KeyError, TypeError) as error:
            print(f"worker: not a request ({error}): {line[:200]!r}", file=sys.stderr, flush=True)
            continue
        if request["name"] == "cancel":
            break
        requests.put(request)
    end_process()


def _watch_parent(parent: int, channel: Channel, ready: threading.Event) -> None:
    """A second way to notice that the parent is gone: somebody else may still hold the other end of stdin.

    Until ``ready`` it also gives signs of life: importing torch takes minutes on a slow disk.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
        if not ready.is_set():
            channel.send("progress", id=None, stage="import", fraction=0.0)
    end_process()


def _import_handlers() -> ModuleType:
    with _without_torchvision():
        return importlib.import_module(f".{HEAVY}", __package__)


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Hide torchvision while transformers and monai are imported.

    They import it where it is there, need it for nothing that is used here, and fail with it: one that does not fit torch
    raises "operator torchvision::nms does not exist", or crashes. It is there beside every torch that Slicer's PyTorch
    extension installs, and another extension may replace it, or torch, by another build. transformers keeps in mind that
    there is none; whoever imports it later (TotalSegmentator) finds it.
    """
    hidden = "torchvision" not in sys.modules
    if hidden:
        sys.modules["torchvision"] = None  # its import raises ModuleNotFoundError, importlib.util.find_spec gives None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torchvision"]


def end_process() -> None:
    """End this process and all its children, now."""
    if psutil is not None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
    with contextlib.suppress(AttributeError, OSError):
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)  # with children whose own parent has ended before them
    os._exit(1)


def _serve(channel: Channel, request: dict[str, Any], handlers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Answer one request; returns the handlers, which live as long as the process."""
    number = request["id"]

    def progress(stage: str, fraction: float) -> None:
        channel.send("progress", id=number, stage=stage, fraction=float(fraction))

    try:
        progress("start", 0.0)
        if handlers is None:
            handlers = _import_handlers().make_handlers()
        if request["name"] not in handlers:
            raise CTGroundedVLMError(
                f'The worker knows no request "{request["name"]}"; it knows: {", ".join(handlers)}.'
            )
        value = handlers[request["name"]](request["arguments"], progress)
        channel.send("result", id=number, value=value)
        return handlers
    except Exception as error:  # the edge of this process: everything becomes an event
        _send_error(channel, number, _family_error(error))
        if isinstance(error, RuntimeError) and "CUDA error" in str(error):
            end_process()  # nothing works on that GPU any more in this process; the next request starts another
    _free_memory()  # here: the error has held what its frames hold
    return handlers


def _family_error(error: Exception) -> CTGroundedVLMError:
    """``error`` itself where a user can act on it, else one of the family that says what can be done."""
    if isinstance(error, CTGroundedVLMError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError(OUT_OF_MEMORY)
    if isinstance(error, ImportError):
        return DependencyError(
            f"A package that the analysis needs cannot be imported ({error}; Python: {sys.executable}). In 3D Slicer, let "
            "the module install its dependencies; elsewhere run: pip install ct-grounded-vlm."
        )
    return CTGroundedVLMError(
        f"Unexpected error: {type(error).__name__}: {str(error)[:500]}. The log holds the details; please report them."
    )


def _send_error(channel: Channel, number: object, error: CTGroundedVLMError) -> None:
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, CTGroundedVLMError)]
    channel.send("error", id=number, kinds=kinds, message=str(error))


def _free_memory() -> None:
    """Give back what a failed request held on the GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads that wait for stdin would hold the interpreter back
