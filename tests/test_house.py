import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lit_continual

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lit_continual"

ROWS = [
    {"__main__"},
    {"cli"},
    {"studies", "tools"},
    {"stream", "phantoms"},
    {"methods"},
    {"segmentation", "denoising"},
    {"data", "reports"},
    {"networks", "metrics"},
    {"runs"},
]
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

LONG_FILES: dict[str, str] = {}  # file of more than 250 lines: why it is not two files


def row_of(room):
    """Height of a room, 0 for the top. None for helpers: modules beside the rooms that stand in no row."""
    return next((i for i, row in enumerate(ROWS) if room in row), None)


def imported(source, file):
    """Absolute names of the modules that a file of the package imports, also inside functions."""
    package = ["lit_continual", *Path(file).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def breaches(source, file):
    room = Path(file).parts[0].removesuffix(".py")
    allowed = is_pure if room == "functional" else goes_down
    return [name for name in imported(source, file) if not allowed(room, name)]


def is_pure(room, name):
    top = name.partition(".")[0]
    return top in {"torch", "typing_extensions", *sys.stdlib_module_names} or f"{name}.".startswith(
        f"lit_continual.{room}."
    )


def goes_down(room, name):
    top, other = f"{name}.".split(".")[:2]
    if top != "lit_continual" or other in {room, "__version__"}:
        return True
    row, below = row_of(room), row_of(other)
    return row is not None and (below is None or below > row)


@pytest.mark.parametrize("file", SOURCES)
def test_imports_go_one_way(file):
    assert breaches((PACKAGE / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("callbacks/x.py", "from lit_continual.data import y"),
        ("callbacks/x.py", "import lit_continual.data.y"),
        ("callbacks/x.py", "from lit_continual import data"),
        ("callbacks/x.py", "from ..data import y"),
        ("callbacks/x.py", "from .. import data"),
        ("callbacks/x.py", "def f():\n    from lit_continual.modules import y"),
        ("data/deep/x.py", "from ...reports import y"),
        ("networks/x.py", "import lit_continual.selection as s"),
        ("networks/x.py", "from lit_continual.metrics import y"),
        ("selection/x.py", "from lit_continual.modules import y"),
        ("functional/x.py", "from lit_continual.runs.storage import y"),
        ("functional/x.py", "import numpy as np"),
        ("stream.py", "from lit_continual.cli import main"),
        ("stream/x.py", "from lit_continual.cli import main"),
        ("storage.py", "from lit_continual.functional import y"),
        ("storage.py", "from lit_continual import other"),
        ("__init__.py", "from lit_continual.callbacks import y"),
    ],
)
def test_an_import_against_the_direction_is_found(file, source):
    assert len(breaches(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__main__.py", "from lit_continual.cli import main"),
        ("cli.py", "import lit_continual.callbacks"),
        ("stream.py", "from lit_continual import storage, __version__"),
        ("callbacks/x.py", "from lit_continual.callbacks.y import z"),
        ("callbacks/x.py", "from .y import z"),
        ("reports/x.py", "import numpy as np\nfrom lit_continual.runs.storage import y"),
        ("modules/x.py", "from lit_continual.networks import y\nfrom lit_continual.functional import z"),
        ("functional/x.py", "import math\nfrom torch.nn.functional import relu\nfrom .y import z"),
    ],
)
def test_an_import_down_the_house_is_allowed(file, source):
    assert breaches(source, file) == []


def test_long_files_are_listed_with_a_reason():
    long = {file for file in SOURCES if len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) > 250}
    assert long == set(LONG_FILES)
    assert all(LONG_FILES.values())


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_a_docstring_of_their_own(room):
    module = importlib.import_module(f"lit_continual.{room}")
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            generated = f"{name}("  # the signature that a dataclass or named tuple takes for a docstring
            assert thing.__doc__, f"lit_continual.{room}.{name} has no docstring"
            assert not thing.__doc__.startswith(generated), f"lit_continual.{room}.{name} has no docstring of its own"


def test_every_room_stands_in_the_plan():
    plan = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules = {f"{path.stem}.py" for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert {name for name in modules | {f"{room}/" for room in ROOMS} if f"\n  {name} " not in plan} == set()


def test_configs_are_short():
    exempt = {"sweeps", "tables"}
    configs = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in exempt]
    assert [path.name for path in configs if len(path.read_text(encoding="utf-8").splitlines()) > 40] == []


def test_changelog_and_package_name_the_same_version():
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert versions[0] == lit_continual.__version__


HOSTS = r"pythonho[s]ted|py[p]i\.org|download\.pytorc[h]\.org/whl|registry\.np[m]js|deb\.debia[n]"
MACHINE_PATHS = r"(?<![\w.}])/(?:wor[k]|roo[t]|hom[e]|Use[r]s|tm[p])/"


def elsewhere(text):
    return [line for line in text.splitlines() if re.search(f"{HOSTS}|{MACHINE_PATHS}", line)]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_no_package_host_and_no_path_of_a_machine_is_tracked():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    contents = {name: (ROOT / name).read_bytes() for name in names.split("\0") if (ROOT / name).is_file()}
    texts = {name: content.decode() for name, content in contents.items() if b"\0" not in content}
    assert {name: lines for name, text in texts.items() if (lines := elsewhere(text))} == {}


def test_package_hosts_and_paths_of_a_machine_are_recognised():
    path, host = "/".join(["", "home", "me"]), ".".join(["pypi", "org"])
    assert elsewhere(f'open("{path}")\nls {path}\nhttps://{host}') == [
        f'open("{path}")',
        f"ls {path}",
        f"https://{host}",
    ]
    inside = ["/".join(parts) for parts in (("docs", "home", "index.md"), ("a", "root", "b"), ("${HOME}", "work", "x"))]
    assert elsewhere("\n".join(inside)) == []
