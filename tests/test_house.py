import ast
import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import lit_continual
from tests.breaks import BREAKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lit_continual"

ROWS = [
    {"__main__"},
    {"cli"},
    {"studies", "tools"},
    {"stream", "phantoms"},
    {"methods"},
    {"interop"},
    {"segmentation", "denoising"},
    {"data", "reports"},
    {"networks", "metrics", "images", "windows"},
    {"runs"},
    {"files"},
]
ROOMS = sorted({".".join(path.relative_to(PACKAGE).parts[:-1]) for path in PACKAGE.rglob("*/__init__.py")} - {""})
SOURCES = sorted(
    path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi")
)
#: Names that stand for others; they may import from any room, and no room imports them.
FACES = {"__init__.py", "__init__.pyi", "callbacks.py", "functional.py", "modules.py"}

LONG_FILES: dict[str, str] = {}  # file of more than 250 lines: why it is not two files


def row_of(room):
    """Height of a room, 0 for the top; None for what stands in no row."""
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
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # an import may hide in a string
            yield from [node.value] if re.fullmatch(r"lit_continual(\.\w+)+", node.value) else []


def breaches(source, file):
    return [] if file in FACES else [name for name in imported(source, file) if not goes_down(file, name)]


def goes_down(file, name):
    top, *other = name.split(".")
    if top != "lit_continual" or other in ([], ["__version__"]):
        return True
    room = Path(file).parts[0].removesuffix(".py")
    if room == other[0] == "methods":  # a method knows its own folder and the bases, and these know no method
        return other[1:2] in ([Path(file).parts[1]], ["bases"])
    row, below = row_of(room), row_of(other[0])
    return room == other[0] or (row is not None and below is not None and below > row)


@pytest.mark.parametrize("file", SOURCES)
def test_imports_go_one_way(file):
    assert breaches((PACKAGE / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("methods/l2sp/x.py", "from lit_continual.stream import y"),
        ("methods/l2sp/x.py", "import lit_continual.cli.y"),
        ("methods/l2sp/x.py", "from lit_continual.methods.tgd.callback import y"),
        ("methods/bases/guards.py", "from lit_continual.methods.tgd import y"),
        ("methods/l2sp/x.py", "from ..tgd import y"),
        ("data/x.py", "from lit_continual import stream"),
        ("data/x.py", "from ..methods import y"),
        ("data/x.py", "from .. import methods"),
        ("data/x.py", "def f():\n    from lit_continual.segmentation import y"),
        ("data/x.py", "from lit_continual.reports import y"),
        ("data/x.py", "from lit_continual.callbacks import y"),
        ("data/x.py", "f('lit_continual.methods.l2sp')"),
        ("segmentation/x.py", "from lit_continual.denoising import y"),
        ("stream/x.py", "from lit_continual.phantoms import y"),
        ("stream/x.py", "from lit_continual.cli.continual_cli import main"),
        ("networks/x.py", "import lit_continual.metrics as m"),
        ("runs/x.py", "from lit_continual.networks import y"),
        ("runs/x.py", "from lit_continual.interop import y"),
        ("files/x.py", "from lit_continual.runs import y"),
        ("interop/x.py", "from lit_continual.methods.bases.guards import y"),
    ],
)
def test_an_import_against_the_direction_is_found(file, source):
    assert len(breaches(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__main__.py", "from lit_continual.cli import main"),
        ("callbacks.py", "from lit_continual.methods.l2sp.callback import L2SP"),
        ("stream/x.py", "from lit_continual import runs, __version__"),
        (
            "methods/l2sp/x.py",
            "from lit_continual.methods.l2sp.y import z\nfrom lit_continual.methods.bases.guards import g",
        ),
        ("methods/l2sp/x.py", "from .y import z\nfrom ..bases.guards import g"),
        ("methods/bases/loss_term.py", "from lit_continual.methods.bases.guards import g"),
        ("reports/x.py", "import numpy as np\nfrom lit_continual.files.whole_files import y"),
        ("segmentation/x.py", "from lit_continual.networks import y\nfrom lit_continual.data.batch import z"),
    ],
)
def test_an_import_down_the_house_is_allowed(file, source):
    assert breaches(source, file) == []


def test_what_looks_up_public_names_is_listed():
    """``import lit_continual`` reaches every room, so that the direction of imports does not show there."""
    asks = {
        file
        for file in SOURCES
        for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lit_continual"
        if node.attr not in ("__name__", "__version__")
    }
    command_line, faces, runs = {"cli/continual_cli.py", "cli/parser.py"}, {"data/__init__.py"}, {"formats", "registry"}
    assert asks == command_line | faces | {f"runs/checkpoints/{name}.py" for name in runs}


def test_breaks_made_by_hand_still_apply():
    counts = {(one.file, one.old): (PACKAGE / one.file).read_text(encoding="utf-8").count(one.old) for one in BREAKS}
    assert [text for text, count in counts.items() if count != 1] == []


def test_long_files_are_listed_with_a_reason():
    long = {file for file in SOURCES if len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) > 250}
    assert long == set(LONG_FILES)
    assert all(LONG_FILES.values())


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_a_docstring_of_their_own(room):
    module = importlib.import_module(f"lit_continual.{room}")
    assert module.__doc__
    public = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in public:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            generated = f"{name}("  # the signature that a dataclass or named tuple takes for a docstring
            assert thing.__doc__, f"lit_continual.{room}.{name} has no docstring"
            assert not thing.__doc__.startswith(generated), f"lit_continual.{room}.{name} has no docstring of its own"


def test_every_room_stands_in_the_plan():
    plan = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules = {f"{path.stem}.py" for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    folders = {f"{room}/" for room in ROOMS if "." not in room}
    assert {name for name in modules | folders if f"\n  {name} " not in plan} == set()


def test_configs_are_short():
    exempt = {"sweeps", "tables"}
    configs = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in exempt]
    assert [path.name for path in configs if len(path.read_text(encoding="utf-8").splitlines()) > 40] == []


@pytest.mark.parametrize("folder", ["configs", "lit_continual", "tests"])
def test_pages_that_are_named_are_there(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".j2")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    named = {*re.findall(r"\bdocs/[\w/]+\.md\b", text)} - {"docs/README.md"}  # which a bundle has
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []


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


def test_generators_of_devices_that_nobody_uses_are_left_alone():
    for file in SOURCES:  # without devices, `fork_rng` starts every GPU there is
        for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "fork_rng":
                assert node.args or node.keywords, f"{file}:{node.lineno} names no `devices`"
