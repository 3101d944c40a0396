import os
from pathlib import Path

import pytest

from lit_continual.files.outputs import require_apart, require_folder, require_new


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"scan")
    return path


@pytest.mark.parametrize("name", ["itself", "dots", "link", "hard link", "folder that is a link"])
def test_an_input_is_found_under_whatever_name(scan, tmp_path, name):
    other = tmp_path / "other.nii.gz"
    if name == "itself":
        other = scan
    elif name == "dots":
        (tmp_path / "a").mkdir()
        other = tmp_path / "a/../scan.nii.gz"
    elif name == "link":
        other.symlink_to(scan)
    elif name == "hard link":
        os.link(scan, other)
    else:
        (tmp_path / "linked").symlink_to(tmp_path)
        other = tmp_path / "linked" / scan.name
    for output, given in ((other, scan), (scan, other)):
        with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
            require_apart([tmp_path / "new", output], [given])
    require_apart([tmp_path / "new"], [scan, tmp_path / "not there"])


def test_an_input_that_is_not_there_yet_is_no_output_either(tmp_path):
    with pytest.raises(ValueError, match="would be overwritten"):
        require_apart([tmp_path / "a"], [tmp_path / "b/../a"])


def test_what_is_there_is_replaced_only_when_asked_for(scan, tmp_path):
    require_new([tmp_path / "new"], overwrite=False)
    require_new([scan], overwrite=True)
    with pytest.raises(ValueError, match=r"scan.nii.gz is there already. Add --overwrite to replace"):
        require_new([scan], overwrite=False)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"dangling and 1 more files are there"):
        require_new([dangling, scan], overwrite=False)


@pytest.mark.parametrize("path", ["scan.nii.gz", "scan.nii.gz/below/it"])
def test_a_file_is_no_folder(scan, tmp_path, path):
    with pytest.raises(ValueError, match=r"scan.nii.gz is a file, and --output needs a folder"):
        require_folder(tmp_path / path)
    require_folder(tmp_path / "new/below")
    require_folder(Path("new"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (tmp_path / "pipe", tmp_path / "link", os.devnull):
        with pytest.raises(ValueError, match=r"is a device or a pipe, which no file can replace. Choose another"):
            require_new([path], overwrite=True)
