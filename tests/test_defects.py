"""`DEFECTS.md` names tests that are there, and what it counts; and what of it is of the tests themselves."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS / "DEFECTS.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (\d)\. .*?\n\n\| fault \| test \|\n\|---\|---\|\n(.*?)(?:\n\n|\Z)", TEXT, flags=re.S | re.M)
FILES = sorted(TESTS.rglob("test_*.py"))
BENCHES = sorted((TESTS / "benchmarks").glob("bench_*.py"))


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_test_that_is_named_is_there():
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT):
        assert (TESTS / file).is_file(), file
        assert name in {node.name for node in parsed(TESTS / file).body if isinstance(node, ast.FunctionDef)}, name


def test_rows_are_counted_by_section():
    assert [number for number, _ in SECTIONS] == [*"1234567"]
    counts = []
    for number, rows in SECTIONS:
        kinds = Counter("left" if "| left alone" in row else "mended" for row in rows.splitlines())
        assert all("::" in row or "| left alone" in row for row in rows.splitlines())
        counts.append(f"| {number} | {kinds.total()} | {kinds['mended']} | {kinds['left']} |")
    assert counts == re.findall(r"^\| \d \| \d+ \| \d+ \| \d+ \|$", TEXT, flags=re.M)


def test_windows_and_macos_are_among_the_systems_of_the_workflow():
    workflow = (TESTS.parent / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert {"windows-latest", "macos-latest"} <= set(re.findall(r"system: ([\w-]+)", workflow))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TESTS).as_posix())
def test_no_name_of_a_test_file_is_assigned_twice_at_its_top(file):
    names = Counter[str]()
    for node in parsed(file).body:
        names.update([node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else [])
        names.update(t.id for t in getattr(node, "targets", []) if isinstance(node, ast.Assign) and hasattr(t, "id"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_loop_of_a_test_waits_for_ever():
    endless = [
        f"{file.name}:{node.lineno}"
        for file in TESTS.rglob("*.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant)
    ]
    assert endless == []


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.stem)
def test_each_bench_takes_its_arguments(bench):
    for node in ast.walk(parsed(bench)):  # on 3.10 and 3.11 argparse refuses none of several choices
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            assert "choices" not in given or getattr(given.get("nargs"), "value", None) not in ("*", "+")


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.stem)
def test_a_bench_that_passes_a_limit_fails(bench):
    (main,) = (node for node in parsed(bench).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    last = ast.unparse(main.body[-1])
    assert re.fullmatch(r"raise SystemExit\(.+\)|sys\.exit\(failed\)", last, flags=re.S), last
    recipe = (TESTS.parent / "Makefile").read_text(encoding="utf-8").partition("\nbench:")[2].partition("\n\n")[0]
    assert '|| failed="$$failed $$script"' in recipe
    assert "exit 1" in recipe.splitlines()[-1]
