"""Put a finished folder in its place, or leave everything as it was.

All files are first written to a hidden folder beside the output, ``.<name>.partial-<random>``. Where the output does not
exist, that folder is renamed; where it holds a former result, its files are exchanged one by one, and exchanged back
when that fails midway.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import OutputError
from .plan import RESULTS
from .tables import SCHEMA

_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
_REMEDY = "Nothing was changed. Name a new or empty folder, or move its content away"


def check_output(output: Path) -> None:
    """Refuse an output folder that :func:`install` would refuse, before hours of computation go into it.

    Raises:
        OutputError: it is a file, holds something else than a former result, or may not be written.
    """
    output = _absolute(output)
    try:
        if output.exists() and not output.is_dir():
            raise OutputError(f"{output} is a file; expected a folder, new or empty. Name another folder")
        former_files(output)
        place = next(p for p in (output, *output.parents) if p.exists())
        if not place.is_dir():
            raise OutputError(f"{output} cannot be made, because {place} is a file. Name another folder")
    except OSError as error:
        raise output_error(output, error) from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{output} cannot be written: no permission for {place}. Name another folder, or change its permissions"
        )


def former_files(output: Path) -> tuple[str, ...]:
    """The files of the result that ``output`` holds; () where it is absent or empty.

    Raises:
        OutputError: it holds something that is not, or not safely, recognised as a former result.
    """
    output = _absolute(output)
    try:
        empty = not output.exists() or all(_is_litter(p.name, output) for p in output.iterdir())
    except OSError as error:
        raise output_error(output, error) from error
    if empty:
        return ()
    try:
        document = json.loads((output / RESULTS).read_bytes())
    except FileNotFoundError:
        document = None
    except (OSError, ValueError) as error:
        raise OutputError(f"{output / RESULTS} cannot be read ({error}). {_REMEDY}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise OutputError(f"{output} is not empty and holds no former result of this program. {_REMEDY}")
    files = document.get("files")
    if not isinstance(files, list) or not all(_is_inside(output, f) for f in files):
        raise OutputError(f"{output / RESULTS} lists files outside its folder, or none. {_REMEDY}")
    return tuple(dict.fromkeys([*files, RESULTS]))


def _is_litter(name: str, output: Path) -> bool:
    """What may lie in a folder that counts as empty: file managers' files, and our own unfinished folders."""
    return name in _LITTER or name.startswith(_partial(output))


def _partial(output: Path) -> str:
    return f".{output.name}.partial-"


def _is_inside(output: Path, file: object) -> bool:
    """Whether a listed path is relative and stays below ``output``, symbolic links of folders followed."""
    if not isinstance(file, str) or not file or "\0" in file or PureWindowsPath(file).drive:
        return False
    parts = PurePosixPath(file.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        return False
    return (output / parts).parent.resolve().is_relative_to(output)


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder to write to, on the output's own disk; it is removed in the end, whatever happened.

    It lies inside ``output`` where that is a mounted volume or its parent may not be written, beside it otherwise.

    Raises:
        OutputError: it cannot be made.
    """
    output = _absolute(output)
    name = _partial(output) + secrets.token_hex(4)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        inside = output.is_dir() and (
            output.stat().st_dev != output.parent.stat().st_dev or not os.access(output.parent, os.W_OK | os.X_OK)
        )
        folder = (output if inside else output.parent) / name
        folder.mkdir()
    except OSError as error:
        raise output_error(output, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path, output: Path, files: Sequence[str]) -> None:
    """Move the staged ``files`` of ``folder`` to ``output``; a former result's files give way, others stay.

    Raises:
        OutputError: a file that is no former result's is in the way; nothing was changed then.
        OSError: moving failed; what had been moved was moved back.
    """
    output = _absolute(output)
    former = former_files(output)
    if not output.exists():
        folder.rename(output)
        return
    replaced = set(former)
    for file in files:
        if file not in replaced and os.path.lexists(output / file):
            raise OutputError(f"{output / file} is in the way and belongs to no former result. {_REMEDY}")
    aside = folder / "former"
    aside.mkdir()
    present = [f for f in former if os.path.lexists(output / f) and not (output / f).is_dir()]
    ordered = sorted(files, key=lambda f: f == RESULTS)  # the table of contents last
    try:
        _exchange([(output / f, aside / f) for f in present] + [(folder / f, output / f) for f in ordered])
    except BaseException as error:
        _save_former(aside, error)
        raise
    _remove_empty({(output / f).parent for f in former} - {output})


def _exchange(moves: Sequence[tuple[Path, Path]]) -> None:
    """Do all the moves, or undo those done as far as that is possible and raise what went wrong."""
    done: list[tuple[Path, Path]] = []
    made: set[Path] = set()
    try:
        for source, target in moves:
            if not target.parent.exists():
                made.add(target.parent)
                target.parent.mkdir(parents=True)
            done.append((source, target))
            source.rename(target)
    except BaseException:
        for source, target in reversed(done):
            with suppress(OSError):  # one file that is stuck must not keep the others from going back
                if os.path.lexists(target) and not os.path.lexists(source):
                    target.rename(source)
        _remove_empty(made)
        raise


def _save_former(aside: Path, error: BaseException) -> None:
    """Keep former files that could not be moved back from being removed with the staged ones.

    Raises:
        OutputError: there are such files; the message says where they are now.
    """
    if not any(p.is_file() for p in aside.rglob("*")):
        return
    kept = aside.parent.with_name(aside.parent.name.replace(".partial-", ".former-"))
    aside.rename(kept)
    raise OutputError(
        f"writing failed ({error}), and some files of the former result could not be moved back: they are in {kept}. "
        "Move them back yourself, or run again with a new output folder"
    ) from error


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def output_error(output: Path, error: OSError) -> OutputError:
    """The error family's words for what the operating system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "the disk is full. Free some space, or name a folder on another disk"
    elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
        remedy = "no permission. Name another folder, change its permissions, or close programs that use its files"
    else:
        remedy = f"{error.strerror or error}. Name another folder"
    return OutputError(f"the result cannot be written to {output}: {remedy}")


def _absolute(output: Path) -> Path:
    """Symbolic links resolved: a link to an empty folder is that folder."""
    try:
        return Path(output).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, or no home folder for ~
        raise OutputError(f"{output} cannot be found ({error}). Name another folder") from error
