"""The real worker process (``CTGroundedVLMLib.worker``) with requests of its own in place of the analysis: no torch, fast.

Run as a script by the tests of the client: everything that ends, breaks or floods a process is tried on it.
"""

import os
import re
import subprocess
import sys
import time
import types

from CTGroundedVLMLib import worker
from CTGroundedVLMLib.errors import SegmentationError


class UnheardOfError(SegmentationError):
    """An error class that the client does not know."""


def _children(arguments, progress):
    """Start a child and a grandchild whose parent ends, and wait with them for ever."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(sleeper)
    orphan = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import subprocess; print(subprocess.Popen({sleeper!r}, stdout=subprocess.DEVNULL).pid)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    progress(f"{child.pid} {orphan.stdout.strip()}", 0.5)
    time.sleep(600)


def _exhaust(arguments, progress):
    """A MemoryError of the real kind: more than the limit of this process is asked for."""
    import resource

    import numpy as np

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, hard))
    try:
        np.ones(4 << 30)  # 32 GiB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _chatter(arguments, progress):
    """Prints wherever a library might."""
    print("to stdout by print")
    os.write(1, b"to stdout by its number\n")
    subprocess.run(
        [sys.executable, "-c", "print('to stdout by a child'); import sys; print(repr(sys.stdin.read()))"], check=True
    )
    print("\udcff not UTF-8: é 肺", file=sys.stderr)
    return "chattered"


def _fail(arguments, progress):
    errors = {
        "foreign": ZeroDivisionError("division by zero"),
        "family": UnheardOfError("Segmentation x.nrrd is empty."),
        "missing": ModuleNotFoundError("No module named 'torch'"),
    }
    raise errors[arguments["kind"]]


def _hang(arguments, progress):
    """Hold the interpreter's lock, so that no thread of this process runs any more."""
    progress("hanging", 0.5)
    re.match(r"(a+)+$", "a" * 60 + "b")


def make_handlers():
    return {
        "echo": lambda arguments, progress: arguments["value"],
        "pid": lambda arguments, progress: os.getpid(),
        "sleep": lambda arguments, progress: time.sleep(600),
        "crash": lambda arguments, progress: os.abort(),
        "children": _children,
        "exhaust": _exhaust,
        "chatter": _chatter,
        "fail": _fail,
        "hang": _hang,
    }


if __name__ == "__main__":
    module = types.ModuleType("CTGroundedVLMLib.worker_requests")
    module.make_handlers = make_handlers
    sys.modules[module.__name__] = module
    code = worker.main()
    sys.stderr.flush()
    os._exit(code)
