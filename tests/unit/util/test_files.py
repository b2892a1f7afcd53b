"""Outputs appear whole or not at all, never in the place of what is no file, and nothing is left beside them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.errors import EdgebError
from edge_behavior.util.files import (
    check_file,
    expand_home,
    new_file,
    new_folder,
    put_file,
    put_folder,
    write_file,
)
from edge_behavior.util.unfinished import REPLACED, UNFINISHED


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFile:
    def test_new_and_replaced(self, tmp_path):
        write_file(tmp_path / "a", "é\udcff")
        assert (tmp_path / "a").read_bytes() == "é\\udcff".encode()
        write_file(tmp_path / "a", b"two", durable=True)
        assert (tmp_path / "a").read_bytes() == b"two"
        assert names(tmp_path) == ["a"]

    def test_what_is_there_is_kept_without_force(self, tmp_path):
        (tmp_path / "a").write_text("old")
        with pytest.raises(EdgebError, match=r"a already exists .*--force"):
            write_file(tmp_path / "a", "new", replace=False)
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "a disk without hard links"])
    def test_what_another_process_made_meanwhile_is_kept(self, tmp_path, monkeypatch, links):
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))

        def work() -> None:
            with new_file(tmp_path / "a", replace=False) as temporary:
                temporary.write_text("ours")
                (tmp_path / "a").write_text("theirs")

        with pytest.raises(EdgebError, match=r"a was made by another process meanwhile, and is kept"):
            work()
        assert (tmp_path / "a").read_text() == "theirs"
        assert names(tmp_path) == ["a"]

    def test_a_disk_without_hard_links(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no links")))
        write_file(tmp_path / "a", "new", replace=False)
        assert (tmp_path / "a").read_text() == "new"
        assert names(tmp_path) == ["a"]

    def test_permissions_are_the_umask_s_or_the_old_file_s(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_file(tmp_path / "new", "x", replace=False)
            (tmp_path / "old").write_text("x")
            (tmp_path / "old").chmod(0o604)
            write_file(tmp_path / "old", "y")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o604

    def test_a_name_as_long_as_the_disk_takes(self, tmp_path):
        for name in ("n" * 255, "é" * 127):
            write_file(tmp_path / name, "x", replace=False)
            assert (tmp_path / name).read_text() == "x"
        with pytest.raises(EdgebError, match=r"the name is too long"):
            write_file(tmp_path / ("n" * 256), "x")
        assert len(names(tmp_path)) == 2

    def test_errors_name_the_output_not_the_hidden_file(self, tmp_path):
        with pytest.raises(EdgebError, match=r"^cannot write .*none/a: no such file or folder \(check the path\)$"):
            write_file(tmp_path / "none" / "a", "x")
        (tmp_path / "file").write_text("")
        with pytest.raises(EdgebError, match=r"a part of the path is not a folder"):
            write_file(tmp_path / "file" / "a", "x")
        with (
            pytest.raises(EdgebError, match=r"cannot write .*/a: /source: permission denied"),
            new_file(tmp_path / "a", replace=True),
        ):
            raise PermissionError(errno.EACCES, "Permission denied", "/source")

    def test_a_full_disk(self, tmp_path, monkeypatch):
        write_file(tmp_path / "a", "old")
        monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
        with pytest.raises(EdgebError, match=r"a: the disk is full .free some space"):
            write_file(tmp_path / "a", "new")
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_put_file_moves(self, tmp_path):
        (tmp_path / "made").write_text("new")
        put_file(tmp_path / "made", tmp_path / "a", replace=False)
        assert names(tmp_path) == ["a"]
        (tmp_path / "made").write_text("newer")
        with pytest.raises(EdgebError, match=r"already exists"):
            put_file(tmp_path / "made", tmp_path / "a", replace=False)
        put_file(tmp_path / "made", tmp_path / "a", replace=True)
        assert (tmp_path / "a").read_text() == "newer"
        assert names(tmp_path) == ["a"]

    def test_of_many_threads_one_makes_it(self, tmp_path):
        won: list[int] = []

        def attempt(number: int) -> None:
            try:
                write_file(tmp_path / "a", f"{number}" * 10_000, replace=False)
            except EdgebError:
                return
            won.append(number)

        threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (tmp_path / "a").read_text() == f"{won[0]}" * 10_000
        assert names(tmp_path) == ["a"]


class TestOddTargets:
    @pytest.fixture
    def odd(self, tmp_path, request):
        path = tmp_path / "odd"
        if request.param == "a folder":
            path.mkdir()
        elif request.param == "a pipe":
            os.mkfifo(path)
        elif request.param == "a socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.close()
        else:
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except OSError:
                pytest.skip("making a device takes root")
        return path, request.param

    @pytest.mark.parametrize("odd", ["a folder", "a pipe", "a socket", "a device"], indirect=True)
    @pytest.mark.parametrize("force", [True, False])
    @pytest.mark.parametrize("linked", [True, False])
    def test_what_is_no_file_stays(self, tmp_path, odd, force, linked):
        path, kind = odd
        before = path.lstat()
        target = path
        if linked:
            target = tmp_path / "link"
            target.symlink_to(path)
        for attempt in (lambda: check_file(target, force), lambda: write_file(target, "x", replace=force)):
            with pytest.raises(EdgebError, match=rf"{path} is {kind}"):
                attempt()
        assert path.lstat() == before
        assert names(tmp_path) == (["link", "odd"] if linked else ["odd"])

    @pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"])
    @pytest.mark.parametrize("force", [True, False])
    def test_streams(self, path, force):
        if not os.path.lexists(path):
            pytest.skip("this system has none")
        with pytest.raises(EdgebError, match=r"is a device|is no place for files"):
            check_file(Path(path), force)
        with pytest.raises(EdgebError, match=r"is a device|is no place for files"):
            write_file(Path(path), "x", replace=force)

    def test_stdout_that_is_a_file(self, tmp_path):
        """A file that a shell has opened as our output must not be swapped under it."""
        code = (
            "import sys; from pathlib import Path; from edge_behavior.errors import EdgebError\n"
            "from edge_behavior.util.files import write_file\n"
            "try: write_file(Path('/dev/stdout'), 'x')\n"
            "except EdgebError as error: print(error)"
        )
        with (tmp_path / "out").open("w") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert "is no place for files" in (tmp_path / "out").read_text()

    def test_a_link_is_kept_and_its_file_written(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "a").write_text("old")
        (tmp_path / "second").symlink_to("disk/a")
        (tmp_path / "first").symlink_to(tmp_path / "second")
        with pytest.raises(EdgebError, match=r"first already exists"):
            write_file(tmp_path / "first", "new", replace=False)
        write_file(tmp_path / "first", "new", replace=True)
        assert (tmp_path / "disk" / "a").read_text() == "new"
        assert (tmp_path / "first").is_symlink()
        assert (tmp_path / "second").is_symlink()
        assert names(tmp_path / "disk") == ["a"]

    @pytest.mark.parametrize("force", [True, False])
    def test_links_to_nothing_and_to_themselves(self, tmp_path, force):
        (tmp_path / "nowhere").symlink_to("missing")
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(EdgebError, match=r"nowhere is a link to .*missing, which does not exist"):
            write_file(tmp_path / "nowhere", "x", replace=force)
        with pytest.raises(EdgebError, match=r"loop is a link that leads to itself"):
            write_file(tmp_path / "loop", "x", replace=force)
        assert names(tmp_path) == ["loop", "nowhere"]


class TestFolder:
    def make(self, scratch: Path, text: str = "new") -> Path:
        made = scratch / "made"
        made.mkdir()
        (made / "file").write_text(text)
        return made

    def test_new_and_replaced(self, tmp_path):
        out = tmp_path / "deep" / "out"
        with new_folder(out) as scratch:
            put_folder(self.make(scratch), out, replace=False, durable=True)
        with new_folder(out) as scratch:
            put_folder(self.make(scratch, "newer"), out, replace=True)
        assert (out / "file").read_text() == "newer"
        assert names(out.parent) == ["out"]

    @pytest.mark.parametrize("taken", ["folder", "file"])
    def test_what_another_process_made_meanwhile_is_kept(self, tmp_path, taken):
        out = tmp_path / "out"

        def work() -> None:
            with new_folder(out) as scratch:
                made = self.make(scratch)
                if taken == "folder":
                    out.mkdir()
                    (out / "file").write_text("theirs")
                else:
                    out.write_text("theirs")
                put_folder(made, out, replace=False)

        with pytest.raises(EdgebError, match=r"out was made by another process meanwhile"):
            work()
        assert (out / "file" if taken == "folder" else out).read_text() == "theirs"
        assert names(tmp_path) == ["out"]

    def test_the_old_one_comes_back(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "file").write_text("old")
        with pytest.raises(EdgebError, match=r"cannot write .*out"), new_folder(out) as scratch:
            put_folder(scratch / "missing", out, replace=True)
        assert (out / "file").read_text() == "old"
        assert names(tmp_path) == ["out"]

    def test_a_link_to_a_folder_on_another_disk_is_kept(self, tmp_path):
        (tmp_path / "disk" / "out").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
        with new_folder(tmp_path / "link") as scratch:
            assert scratch.parent == tmp_path / "disk"
            put_folder(self.make(scratch), tmp_path / "link", replace=True)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "out" / "file").read_text() == "new"
        assert names(tmp_path / "disk") == ["out"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_nothing_is_left_of_what_failed(self, tmp_path, error):

        def folder() -> None:
            with new_folder(tmp_path / "out") as scratch:
                self.make(scratch)
                raise error

        def file() -> None:
            with new_file(tmp_path / "file", replace=False) as temporary:
                temporary.write_text("half")
                raise error

        for work in (folder, file):
            with pytest.raises(error):
                work()
        assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_behavior.util.files import new_file, new_folder
from edge_behavior.util.unfinished import REPLACED
out = Path(sys.argv[1])
if sys.argv[2] == "file":
    with new_file(out, replace=True) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with new_folder(out) as scratch:
    (scratch / "half").write_text("half")
    if sys.argv[2] == "swap":
        os.rename(out, scratch / REPLACED)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
class TestLeftovers:
    def kill(self, out: Path, kind: str) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(out), kind], check=False)
        assert done.returncode == -signal.SIGKILL
        assert any(name.endswith(UNFINISHED) for name in names(out.parent))

    def test_of_a_killed_process_go(self, tmp_path):
        for kind in ("file", "folder"):
            self.kill(tmp_path / "out", kind)
        with new_file(tmp_path / "out", replace=True) as temporary:
            assert names(tmp_path) == [temporary.name]
            temporary.write_text("new")
        assert names(tmp_path) == ["out"]

    def test_a_folder_that_had_been_set_aside_comes_back(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "file").write_text("old")
        self.kill(out, "swap")
        assert not out.exists()
        with new_folder(out):
            assert (out / "file").read_text() == "old"
        assert names(tmp_path) == ["out"]

    def test_of_a_living_process_and_of_others_stay(self, tmp_path):
        foreign = [".out.notes", ".other.0123abcd" + UNFINISHED, ".out.txt.0123abcd" + UNFINISHED, "out" + UNFINISHED]
        for name in foreign:
            (tmp_path / name).write_text("x")
        with new_file(tmp_path / "out", replace=True) as first, new_folder(tmp_path / "out") as second:
            write_file(tmp_path / "out", "new")
            assert first.exists()
            assert second.exists()
            first.write_text("newer")
        assert names(tmp_path) == sorted([*foreign, "out"])

    def test_without_locks_nothing_is_taken_for_dead(self, tmp_path, monkeypatch):
        self.kill(tmp_path / "out", "file")
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
        write_file(tmp_path / "out", "new")
        assert len(names(tmp_path)) == 2


FAILING = ("link", "replace", "rename", "unlink", "open", "fsync", "chmod", "mkdir", "scandir")


@settings(max_examples=150, deadline=None)
@given(
    call=st.sampled_from(FAILING),
    nth=st.integers(0, 6),
    error=st.sampled_from([OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "denied"), KeyboardInterrupt()]),
    old=st.booleans(),
    replace=st.booleans(),
    folder=st.booleans(),
)
def test_whatever_fails_the_old_or_the_new_content_is_there_whole(
    tmp_path_factory, call, nth, error, old, replace, folder
):
    """Any system call may fail, or Ctrl-C come in it: a reader sees one of the two contents, or nothing if none was."""
    root = tmp_path_factory.mktemp("any")
    out = root / "out"
    content = out / "file" if folder else out
    if old:
        content.parent.mkdir(exist_ok=True)
        content.write_text("old")
    real, counted = getattr(os, call), []

    def failing(*arguments, **options):
        counted.append(None)
        if len(counted) != nth + 1:
            return real(*arguments, **options)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, failing)
        try:
            if folder:
                with new_folder(out) as scratch:
                    made = scratch / "made"
                    os.mkdir(made)
                    (made / "file").write_text("new")
                    put_folder(made, out, replace=replace, durable=True)
            else:
                write_file(out, "new", replace=replace, durable=True)
            done = True
        except (EdgebError, OSError, KeyboardInterrupt):
            done = False
    found = content.read_text() if content.exists() else None
    if done:
        assert found == "new"
    elif old and not replace:
        assert found == "old"
    else:
        assert found in ("old" if old else None, "new")
    # What stays hidden after a second failure goes with the next attempt.
    hidden = [name for name in names(root) if name != "out"]
    assert all(name.endswith(UNFINISHED) for name in hidden)
    with new_folder(out) if folder else new_file(out, replace=True) as temporary:
        assert [name for name in names(root) if name != "out"] == [temporary.name]
    assert content.exists() or found is None or folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [("~", ""), ("~/x/y", "x/y"), ("./~/x", None), ("a~b", None), ("~nobody-of-this-name/x", None), ("", None)],
)
def test_home(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(given) == (Path(given) if expected is None else tmp_path / expected)


def test_names_of_what_is_hidden_are_known():
    """Other modules look for them; a run folder's `--resume` and a bundle's folder pass them over."""
    assert (REPLACED, UNFINISHED) == ("replaced", ".edgeb-partial")
