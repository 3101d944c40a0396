import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from lit_continual.files import whole_files
from lit_continual.files.folder_aside import made_folder
from lit_continual.files.folder_lock import FolderLock
from lit_continual.files.whole_files import in_one_line, read_json, replaced, write_json, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that makes no folders")
@pytest.mark.parametrize("write", [made_folder, lambda path: FolderLock(path / "run").held().__enter__()])
def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(write):
    with pytest.raises(OSError, match=r"^Cannot write /proc/\S+ \(No such file .*Choose another folder"):
        write(Path("/proc/out"))


def test_the_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep" / "scores.txt"
    write_text(path, "Æ")
    assert path.read_bytes() == "Æ".encode()
    with pytest.raises(KeyError, match=r"stop"):
        write_half(path, KeyError("stop"))
    assert path.read_text(encoding="utf-8") == "Æ"
    assert names(path.parent) == ["scores.txt"]


def write_half(path, error):
    with replaced(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_stops_the_block_leaves_nothing(tmp_path, stop):
    with pytest.raises(stop):
        write_half(tmp_path / "new", stop("stop"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_a_full_disk(tmp_path, monkeypatch, when):
    write_text(tmp_path / "a.json", "old")
    if when == "write":
        monkeypatch.setattr(whole_files.Path, "write_text", full)
    else:
        monkeypatch.setattr(os, when, full)
    with pytest.raises(OSError, match=r"Cannot write .*a.json \(No space left.*unharmed. Free some space") as caught:
        write_text(tmp_path / "a.json", "new")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_what_torch_says_of_a_full_disk(tmp_path):
    for words in (
        "PytorchStreamWriter failed writing file data/0: file write failed\nframe #0: ...",
        "[enforce fail at inline_container.cc:672] . unexpected pos 62480 vs 62368",
        "basic_ios::clear: iostream error",
    ):
        with pytest.raises(OSError, match=r"Cannot write .*w.pt \(only a part of it could be written\)"):
            write_half(tmp_path / "w.pt", RuntimeError(words))
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        write_half(tmp_path / "w.pt", RuntimeError("shapes differ"))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write .*file/sub/a.json \("):
        write_json(tmp_path / "file" / "sub" / "a.json", {})


LIMITED = """
import resource, signal, sys, torch
from lit_continual.files.whole_files import replaced, write_text
limit = 100_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def save():
    with replaced(sys.argv[1] + "/model.ckpt") as temporary:
        torch.save({"w": torch.zeros(100_000)}, temporary)
for write in (
    save,
    lambda: write_text(sys.argv[1] + "/page.html", "x" * 200_000),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_process_that_may_write_no_more(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "model.ckpt")
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert f"Cannot write {tmp_path / 'model.ckpt'} (" in first
    assert f"Cannot write {tmp_path / 'page.html'} (File too large)" in second
    assert names(tmp_path) == ["model.ckpt"]
    assert torch.equal(torch.load(tmp_path / "model.ckpt")["w"], torch.ones(2))


def test_json(tmp_path):
    content = {"a": [1, None, 0.5], "ü": "ß"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    with pytest.raises(ValueError, match=r"Out of range"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == content
    for text in (b"{", b"\xff"):
        (tmp_path / "a.json").write_bytes(text)
        with pytest.raises(ValueError, match=r"a.json is not valid JSON \(.*Restore the file or make it anew"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EFBIG, "Free some space"),
        (errno.EACCES, "Get the permission"),
        (errno.EROFS, "Choose a folder on a file system that may be written"),
        (errno.EIO, "Check the disk"),
        (errno.EMFILE, "Allow more open files"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
    ],
)
def test_each_reason_has_its_remedy(tmp_path, number, words):
    with pytest.raises(OSError, match=rf"Cannot write .*\({os.strerror(number)}\).*unharmed. {words}") as caught:
        write_half(tmp_path / "a", OSError(number, os.strerror(number)))
    assert ("Free some space" in str(caught.value)) is words.startswith("Free")


@pytest.mark.skipif(os.name == "nt", reason="does so by itself")
def test_what_is_synced_is_open_for_writing(tmp_path, monkeypatch):
    import fcntl

    real, synced = os.fsync, []

    def windows(handle):  # where EBADF is raised for a file that is open for reading alone
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        synced.append(handle)
        real(handle)

    monkeypatch.setattr(os, "fsync", windows)
    write_json(tmp_path / "a.json", {})
    assert synced


def test_an_error_without_a_message_is_its_type():
    assert [in_one_line(error) for error in (EOFError(), ValueError("\n\n"), KeyError())] == [
        "EOFError",
        "ValueError",
        "KeyError",
    ]
