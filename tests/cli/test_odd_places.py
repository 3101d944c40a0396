"""What a stranger's machine is like: outputs that cannot hold our signs, terminals without width, folders that go."""

import io
import os
import sys

import pytest

from lit_continual.cli import dispatch, main
from lit_continual.files.printing import show


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("cp1252", "strict", "ACC 0.4 \u00b1 0.1 \u2014 BWT -0.3 ?"),
        ("ascii", "surrogateescape", "ACC 0.4 +- 0.1 - BWT -0.3 ?"),
        ("ascii", "xmlcharrefreplace", "ACC 0.4 &#177; 0.1 &#8212; BWT &#8722;0.3 &#8595;"),  # as its user says
    ],
)
def test_an_encoding_without_our_signs_ends_no_command_and_no_number_loses_its_minus(
    monkeypatch, encoding, errors, written
):
    output = io.TextIOWrapper(io.BytesIO(), encoding, errors)
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("sys.argv", ["lit-continual", "report"])
    said = "ACC 0.4 \u00b1 0.1 \u2014 BWT \u22120.3 \u2193"
    monkeypatch.setitem(dispatch.COMMANDS, "report", lambda arguments: show(said))
    dispatch.main()
    output.flush()
    assert output.buffer.getvalue().decode(encoding).splitlines() == [written]


@pytest.mark.parametrize("columns", ["0", "-4", "wide"])
def test_a_terminal_that_has_no_columns_is_shown_all(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    show("Report: run/report/report.html")
    assert capsys.readouterr().out == "Report: run/report/report.html\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there the folder in which a process runs stays")
def test_a_folder_that_went_while_a_shell_was_in_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"The folder in which this runs is gone .*Change to another one\."):
        main(["report", "run"])
