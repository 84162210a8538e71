"""Where --report writes: the file is the old one or the new one at any kill -9, and what is no file stays."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from threading import Thread

import pytest

from pykvm.cli.main import main
from pykvm.errors import HostError
from pykvm.machine import report, wholefile

OLD, NEW = {"outcome": "old"}, {"outcome": "new"}
SPARE = ".r.json.pykvm-new"

# Does one thing with r.json again and again, each time killed one line of pykvm's code later, up to its end.
# Prints after each kill what is in the folder.
KILLED_AT_EVERY_LINE = """
import json, os, signal, sys
from pykvm.machine import report, wholefile

FILES = (report.__file__, wholefile.__file__)

def until(line):
    left = line
    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event in ("line", "return"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    eval(sys.argv[2])
    os._exit(0)

for line in range(1, 1000):
    for name in os.listdir("."):
        os.unlink(name)
    if sys.argv[1]:
        with open("r.json", "w") as file:
            file.write(sys.argv[1])
    child = os.fork()
    if child == 0:
        until(line)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({name: open(name).read() for name in os.listdir(".")}))
    if status == 0:
        break
    assert status == -signal.SIGKILL
"""


def killed(folder, old, doing):
    """What was in ``folder`` after each kill, and at last without one."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"the file system of {folder} has no files without a name: {error.strerror}")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, old, doing],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 10
    return found


def test_a_kill_at_any_moment_leaves_no_report_or_the_whole_one(tmp_path):
    *killed_ones, whole = killed(tmp_path, "", f"report.write('r.json', {NEW})")
    assert json.loads(whole["r.json"]) == NEW
    assert [found for found in killed_ones if found not in ({}, whole)] == []


def test_a_kill_at_any_moment_leaves_the_old_report_or_the_new_one(tmp_path):
    *killed_ones, whole = killed(tmp_path, json.dumps(OLD), f"report.write('r.json', {NEW})")
    assert [json.loads(found["r.json"]) for found in (killed_ones[0], whole)] == [OLD, NEW]
    between = [found for found in killed_ones if found.keys() != {"r.json"}]
    # Linux has no call that puts a file without a name in the place of one that is there: one moment is left.
    assert between
    assert all(found == {"r.json": json.dumps(OLD), SPARE: whole["r.json"]} for found in between)
    assert {found["r.json"] for found in killed_ones} == {json.dumps(OLD), whole["r.json"]}


@pytest.mark.parametrize("old", ["", json.dumps(OLD)])
def test_a_kill_while_it_is_asked_whether_a_report_can_be_written_leaves_nothing(tmp_path, old):
    before = {"r.json": old} if old else {}
    assert all(found == before for found in killed(tmp_path, old, "report.require_writable('r.json')"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "next_run", [lambda: report.write("r.json", OLD), lambda: report.require_writable("r.json")]
)
def test_what_a_kill_has_left_goes_with_the_next_run(folder, next_run):
    (folder / "r.json").write_text(json.dumps(OLD) + "\n")
    (folder / SPARE).write_text("x")
    next_run()
    assert os.listdir(folder) == ["r.json"]
    assert json.loads((folder / "r.json").read_text()) == OLD


def no_unnamed_files(monkeypatch, number):
    def refuse(path, flags, mode=0o777, *, real=os.open):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)


def no_links(monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize(
    ("refuse", "number"),
    [
        (no_unnamed_files, errno.EOPNOTSUPP),
        (no_unnamed_files, errno.EISDIR),
        (no_links, errno.EPERM),
        (no_links, errno.ENOENT),
    ],
)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_system_without_such_files_gets_its_report_too(folder, monkeypatch, refuse, number, old):
    if old:
        (folder / "r.json").write_text(old)
    refuse(monkeypatch, number)
    report.require_writable("r.json")
    assert os.listdir(folder) == (["r.json"] if old else [])
    report.write("r.json", NEW)
    assert os.listdir(folder) == ["r.json"]
    assert json.loads((folder / "r.json").read_text()) == NEW
    with pytest.raises(HostError, match="the report can't be written: No such file or directory"):
        report.write("no/r.json", NEW)


def test_a_report_in_a_folder_that_is_gone_is_told_before_anything_is_done(folder, capsys):
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(folder / "gone")
    assert main(["boot", "hello", "--report", "r.json"]) == 69
    assert "r.json: the report can't be written: No such file or directory" in capsys.readouterr().err


UNSHARED = ["unshare", "--mount", "--map-root-user"]
NAMESPACES = subprocess.run([*UNSHARED, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not NAMESPACES, reason="no mount namespace: `unshare -rm` is refused")
@pytest.mark.parametrize("folder_is", ["", "mount -o remount,bind,ro volume"], ids=["open", "read-only"])
def test_a_report_that_is_a_containers_volume_is_written_to_itself(folder, folder_is):
    for name in ("volume/r.json", "outside"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("old, and much longer than the new one" * 100)
    mounts = f"mount --bind volume volume && mount --bind outside volume/r.json && {folder_is or 'true'}"
    command = f"{sys.executable} -m pykvm boot --kernel gone --report volume/r.json"
    done = subprocess.run([*UNSHARED, "sh", "-c", f"{mounts} && {command}"], capture_output=True, timeout=60)
    assert done.returncode == 65, done.stderr
    assert json.loads((folder / "outside").read_text())["status"] == 65
    assert os.listdir(folder / "volume") == ["r.json"]


def test_a_report_in_the_place_of_anothers_file_is_told_before_anything_is_done(folder, monkeypatch):
    """As in /tmp."""
    (folder / "r.json").write_text("another's")
    folder.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HostError, match="the report can't be written: Operation not permitted"):
        report.require_writable("r.json")
    report.require_writable("s.json")
    assert (folder / "r.json").read_text() == "another's"


def test_two_that_write_the_same_report_in_the_same_moment_leave_a_whole_one(folder, monkeypatch):
    (folder / "r.json").write_text("old")

    def overtaken(fd, name, *, real=wholefile._link):
        real(fd, name)
        if name == SPARE:
            monkeypatch.undo()
            os.chdir(folder)
            report.write("r.json", OLD)  # the other: it takes our file for a dead process's

    monkeypatch.setattr(wholefile, "_link", overtaken)
    report.write("r.json", NEW)
    assert json.loads((folder / "r.json").read_text()) == NEW
    assert os.listdir(folder) == ["r.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_report_has_a_new_files_mode(folder, umask, old):
    if old:
        (folder / "r.json").write_text(old)
    before = os.umask(umask)
    try:
        report.write("r.json", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("r.json").st_mode) == 0o666 & ~umask


def test_a_report_replaces_a_link_and_not_what_it_names(folder):
    (folder / "other").write_text("other's")
    os.symlink("other", "r.json")
    os.symlink("gone", "s.json")
    for name in ("r.json", "s.json"):
        report.write(name, NEW)
        assert not os.path.islink(name)
        assert json.loads((folder / name).read_text()) == NEW
    assert (folder / "other").read_text() == "other's"


def test_a_report_on_standard_output_that_is_a_file_comes_behind_what_is_there(folder):
    os.symlink("/proc/self/fd/1", "stdout")  # as /dev/stdout is
    os.symlink("stdout", "again")
    with open("out", "wb", buffering=0) as out:
        out.write(b"before\n")
        command = [sys.executable, "-m", "pykvm", "boot", "--kernel", "gone", "--report", "again"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=60)
        out.write(b"behind\n")
    assert done.returncode == 65
    before, told = (folder / "out").read_text().removesuffix("behind\n").split("\n", 1)
    assert (before, json.loads(told)["status"]) == ("before", 65)
    assert os.readlink("stdout") == "/proc/self/fd/1"


def test_a_report_on_a_descriptor_that_only_reads_is_told_before_anything_is_done(folder, capsys):
    (folder / "in").write_text("x")
    with open("in", "rb") as file:
        assert main(["boot", "--kernel", "gone", "--report", f"/dev/fd/{file.fileno()}"]) == 69
    assert "the report can't be written: Bad file descriptor" in capsys.readouterr().err


def test_a_report_goes_into_a_pipe(folder, capsys):
    os.mkfifo("pipe")
    got = []
    reader = Thread(target=lambda: got.append((folder / "pipe").read_text()))
    reader.start()
    assert main(["boot", "--kernel", "gone", "--report", "pipe"]) == 65
    reader.join()
    assert json.loads(got[0])["status"] == 65
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert os.listdir(folder) == ["pipe"]


def test_a_report_to_dev_null_is_gone_and_dev_null_is_not(folder, capsys):
    assert main(["boot", "--kernel", "gone", "--report", "/dev/null"]) == 65
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
