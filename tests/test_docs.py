"""What README and pages name is there: links, files, commands with their options, arguments of methods, tables."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

import lit_continual
from lit_continual.cli.commands import COMMANDS
from lit_continual.cli.options_of_fit import OptionsOfFit
from lit_continual.cli.parser import Parser
from lit_continual.studies.layout import read_layout

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MADE = re.compile(
    r"https://|(\.\./)?reference/"
)  # of others, and of docs/hooks.py, whose links `mkdocs --strict` follows
#: Files that a page tells its reader to write, and those of a bundle.
TO_BE = re.compile(r"/x[/.]|/feature_distillation[/.]|configs/(metadata|inference)\.json")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    return FENCED.sub("", text_of(page))


def anchors(page):
    """Names that MkDocs and GitHub give to headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'src="([^"]+)"', prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not MADE.match(link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


@each_page
def test_files_of_the_repository_are_there(page):
    named = re.findall(r"`((?:configs|tests|docs|lit_continual)/[\w/.*]+)`", prose(page))
    named += re.findall(r"(?:configs|tests|docs)/[\w/]+\.(?:yaml|py|md|json)", text_of(page))
    assert [name for name in {*named} if not TO_BE.search(name) and not list(ROOT.glob(name))] == []


def commands():
    """Page, and words of each command line of this package, in blocks and in running text."""
    for page in PAGES:
        text = text_of(page).replace("\\\n", " ")
        lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
        lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]
        for line in lines:
            if found := re.match(r"(?:\w+=\S+ )?(?:python -m lit_continual|lit-continual) (\w+ .*)", line):
                words = shlex.split(found[1], comments=True)
                whole = not re.search(r"[…|]|^memory forget$", found[1])
                if whole and words[0] in COMMANDS and page.name != "CHANGELOG.md":  # which tells of older versions
                    yield page.relative_to(ROOT).as_posix(), words


class Parsed(Exception):  # noqa: N818  # nothing is wrong
    """A command line has been understood."""


@pytest.fixture(scope="module")
def fit():
    return OptionsOfFit()


@pytest.mark.parametrize(("page", "words"), [*commands()])
def test_a_command_is_understood(page, words, fit, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *arguments = words
    if command in ("fit", "validate", "test"):
        config = "configs/lwfseg.yaml"  # for those that pages have their reader write
        given = [config if word.endswith(".yaml") and not Path(word).exists() else word for word in arguments]
        if command != "fit" and "--ckpt_path" in given:  # which no fit of a stream takes
            del given[(place := given.index("--ckpt_path")) : place + 2]
        fit.parse(["--config", config, *(word for word in given if word != "--help")])
        return

    def parsed(self, arguments):
        self.exit_on_error = False
        raise Parsed(self.parse_args(list(arguments)))

    monkeypatch.setattr(Parser, "parsed", parsed)
    with pytest.raises(Parsed):
        COMMANDS[command](arguments)


@each_page
def test_classes_and_their_arguments_are_there(page):
    missing = [
        f"{face}.{name}"
        for face, name in re.findall(r":(?:class|func):`~lit_continual\.(\w+)\.(\w+)`", text_of(page))
        if not hasattr(getattr(lit_continual, face), name)
    ]
    for name, given in re.findall(r"`(\w+)\(([^`()]*)\)`", prose(page)):
        if name in lit_continual.__all__ and page.name != "CHANGELOG.md":
            known = inspect.signature(getattr(lit_continual, name)).parameters
            missing += [f"{name}({one})" for one in re.findall(r"(\w+) ?[=:]", given) if one not in known]
    assert missing == []


TABLES = [
    (page, title, code)
    for page in PAGES
    for title, code in re.findall(r'^```yaml title="([^"]+)"\n(.*?)^```$', text_of(page), re.MULTILINE | re.DOTALL)
    if "methods:" in code
]


@pytest.mark.parametrize(("page", "title", "code"), TABLES, ids=[title for _, title, _ in TABLES])
def test_a_table_is_one(page, title, code, tmp_path):
    (tmp_path / title).write_text(code, encoding="utf-8")
    for method in read_layout(tmp_path / title).methods.values():
        assert (ROOT / "configs" / "tables" / method.config).exists()
