"""Atomic output: files and folders appear whole or not at all, for every module that writes one.

Work under way lies beside its target under a hidden name, see `unfinished`. A symbolic link is kept, and its target is
written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edge_behavior.errors import EdgebError, system_error
from edge_behavior.util.unfinished import REPLACED, UNFINISHED, reserved

_MAX_LINKS = 40
_FORCE_HINT = "choose another name, or pass --force to replace it"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expand_home(path: str | Path) -> Path:
    """A path with `~` and `~user` expanded, which Docker, systemd and .env files leave as they are."""
    return Path(os.path.expanduser(path))


def check_file(path: Path, force: bool) -> None:
    """Refuse an output path where no file can be written, before the work that makes its content.

    Raises:
        EdgebError: a folder, a device, a pipe, a dangling link, or an existing file without `force`.
    """
    with _named_errors(path):
        target = _target(path)
        if _mode(target) is not None and not force:
            raise EdgebError(f"{path} already exists", _FORCE_HINT)


@contextmanager
def new_file(path: Path, *, replace: bool, durable: bool = False) -> Iterator[Path]:
    """Write a file under a hidden name; at the end of the block it moves to `path`, with the old file's permissions.

    Args:
        replace: Whether to replace an existing file. If not, one that another process makes meanwhile is kept, too.
        durable: Sync to disk before the old file goes, for what takes long to make again.

    Yields:
        The file to write.

    Raises:
        EdgebError: see `check_file`; or a system error in the block, as one line. The old file is kept.
    """
    check_file(path, replace)
    with _named_errors(path):
        target = _target(path)
        with reserved(target, folder=False) as temporary:
            yield temporary
            _put(temporary, target, replace, durable)


def write_file(path: Path, content: str | bytes, *, replace: bool = True, durable: bool = False) -> None:
    """Write a file in one go, see `new_file`. Text becomes UTF-8, with escapes for bytes of undecodable file names."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with new_file(path, replace=replace, durable=durable) as temporary:
        temporary.write_bytes(data)


def put_file(made: Path, path: Path, *, replace: bool) -> None:
    """Move a finished file to `path` on the same disk; see `new_file` with `durable`."""
    check_file(path, replace)
    with _named_errors(path):
        _put(made, _target(path), replace, durable=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden work folder beside `out`, on the same disk; removed at the end of the block.

    Leftovers of killed processes are removed first; an old folder they had set aside is put back.
    """
    with ExitStack() as stack:
        with _named_errors(out):
            target = _target(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(reserved(target, folder=True))
        yield temporary


def put_folder(made: Path, out: Path, *, replace: bool, durable: bool = False) -> None:
    """Move a finished folder out of its `new_folder` to `out`.

    Args:
        out: May be an empty folder.
        replace: Whether to replace a folder that is not empty. If not, one that another process makes is kept.
        durable: See `new_file`.

    Raises:
        EdgebError: something else is there, or a system error. The old folder is kept.
    """
    with _named_errors(out):
        target, aside = _target(out), made.with_name(REPLACED)
        if durable:
            for file in (path for path in made.rglob("*") if path.is_file()):
                _sync(file)
        if replace and os.path.lexists(target):
            os.rename(target, aside)
        try:
            os.rename(made, target)
        except BaseException as error:
            if aside.exists() and not os.path.lexists(target):
                os.rename(aside, target)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _taken(out) from None
            raise
        if durable:
            _sync(target.parent)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """System errors as one line that names the output, not the hidden file."""
    try:
        yield
    except OSError as error:
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        # An input that is read meanwhile may be at fault.
        other = f": {file}" if file and UNFINISHED not in file and Path(file) != path else ""
        raise system_error(error, f"cannot write {path}{other}") from None


def _target(path: Path) -> Path:
    """The path that `path` resolves to through symbolic links."""
    here = path
    for hops in range(_MAX_LINKS):
        whole = here.name in ("", "..")
        here = Path(os.path.realpath(here)) if whole else Path(os.path.realpath(here.parent)) / here.name
        if here.parts[1:2] == ("proc",):
            raise EdgebError(f"{path} leads to {here}, which is no place for files", "name a file; > redirects output")
        if not os.path.islink(here):
            if hops and not os.path.lexists(here):
                raise EdgebError(f"{path} is a link to {here}, which does not exist", "remove the link, or name a file")
            return here
        here = here.parent / os.readlink(here)
    raise EdgebError(f"{path} is a link that leads to itself", "remove the link")


def _mode(target: Path) -> int | None:
    """Permissions of the file at a target; None where there is nothing.

    Raises:
        EdgebError: not a regular file.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "not a file")
        raise EdgebError(f"{target} is {kind}", "name a file")
    return stat.S_IMODE(mode)


def _put(made: Path, target: Path, replace: bool, durable: bool) -> None:
    mode = _mode(target)
    if mode is not None and replace:
        # File systems without permissions refuse this.
        with suppress(OSError):
            made.chmod(mode)
    if durable:
        _sync(made)
    if replace:
        os.replace(made, target)
    else:
        _put_new(made, target)
    if durable:
        _sync(target.parent)


def _put_new(made: Path, target: Path) -> None:
    """Move without replacing: unlike a rename, making a hard link fails where there is a file."""
    try:
        os.link(made, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError:
        # File systems without hard links, as on SD cards: an empty file reserves the name.
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise _taken(target) from None
        os.replace(made, target)
    else:
        made.unlink()


def _taken(path: Path) -> EdgebError:
    return EdgebError(f"{path} was made by another process meanwhile, and is kept", _FORCE_HINT)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows does not open folders.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
