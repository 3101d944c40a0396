"""What MkDocs does here beyond its plugins: formulas become MathML, and the public names get reference pages."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "lit_continual"
FACES = ["callbacks", "functional", "modules", "data", "metrics", "networks"]
#: What of a class is for those who call it or derive from it; other members are shown of none.
MEMBERS = {
    "BundleDataModule": ["follow"],
    "Candidates": ["contains", "images", "volume", "sample"],
    "Denoiser": ["forward", "infer"],
    "ExemplarMemory": ["load", "add", "forget"],
    "ExemplarMemoryDataModule": ["remember"],
    "HydraNet": ["export_encoder"],
    "LossTerm": ["compute", "share_of_loss"],
    "MetaStrategy": ["adapt", "task_gradient"],
    "NNUNetDataModule": ["follow"],
    "PartialTraining": ["choose_masks"],
    "PerCaseScore": ["case_score", "update", "compute"],
    "PetScanner": ["expected", "counts", "reconstruct"],
    "Segmenter": ["forward", "grow", "infer", "masks", "labels", "probabilities"],
    "SharedHead": ["grow"],
    "VGG16Features": ["activations"],
}

BLOCK = re.compile(r"^(?:\.\. math::[ ]*\n?(.+(?:\n[ ]*\S.*)*)|\$\$\s*([^$]+?)\s*\$\$)$", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`|(?<![\w\\`$])\$([^$`\n]+)\$(?!\w)")
DOCTEST = re.compile(r"(?:\A|(?<=\n\n))>>> .*(?:\n.*\S.*)*")
REFERENCE = re.compile(r":(?:class|func|meth|attr|mod):`~?\.?(lit_continual\.)?([\w.]*?)(\w+)`")


class Doctests(Preprocessor):
    """Read the examples of docstrings as code, also under ``Example:``."""

    def run(self, lines: list[str]) -> list[str]:
        """Fence what starts with a prompt."""
        return DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", "\n".join(lines)).split("\n")


class Formulas(Preprocessor):
    """Read the formulas and cross-references of pages (``$x$``) and of docstrings (``:math:`x```)."""

    def run(self, lines: list[str]) -> list[str]:
        """Put MathML, which browsers draw without a script, in the place of LaTeX."""
        text = BLOCK.sub(lambda match: f"\n{self._math(match, 'block')}\n", "\n".join(lines))
        text = INLINE.sub(lambda match: self._math(match, "inline"), text)
        return REFERENCE.sub(self._reference, text).split("\n")

    def _math(self, match: re.Match[str], display: str) -> str:
        formula = convert(match[1] or match[2], display=display)
        return self.md.htmlStash.store(f'<div class="formula">{formula}</div>' if display == "block" else formula)

    def _reference(self, match: re.Match[str]) -> str:
        # Optional: what is not public has no place to lead to. A bare name is a public one of the package.
        link = f'<autoref identifier="lit_continual.{match[2]}{match[3]}" optional><code>{match[3]}</code></autoref>'
        return self.md.htmlStash.store(link)


class DocstringExtension(Extension):
    """Markdown with what docstrings hold beyond it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # the name is Markdown's
        """Find examples before fenced code is set aside, and formulas after."""
        md.preprocessors.register(Doctests(md), "doctests", 30)
        md.preprocessors.register(Formulas(md), "formulas", 21)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read pages and docstrings with the extension, and put methods and reference into the navigation."""
    config.markdown_extensions.append(DocstringExtension())  # type: ignore[arg-type]
    pages = (PACKAGE.parent / "docs" / "methods").glob("*.md")
    methods = sorted(pages, key=lambda path: (path.stem != "choosing", path.stem))
    config.nav = [
        *(config.nav or []),
        {"Methods": [f"methods/{path.name}" for path in methods]},
        {"Reference": [f"reference/{name}.md" for name in [*FACES, *_others()]]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add a page for every face, and one for every room with public names that no face but the package itself has."""
    for face in FACES:
        parts = [f"# {face}", _docstring(PACKAGE / f"{face}.py"), *_entries(face, _exported(_source(face)))]
        files.append(File.generated(config, f"reference/{face}.md", content="\n\n".join(parts) + "\n"))
    for page, names in _others().items():
        room = _room(next(iter(names.values())))
        here = "Configs name these by their bare names; in Python they are imported from `lit_continual`."
        parts = [f"# {page}", _docstring(PACKAGE / room / "__init__.py"), here, *_entries("data", names)]
        files.append(File.generated(config, f"reference/{page}.md", content="\n\n".join(parts) + "\n"))
    return files


def _others() -> dict[str, dict[str, str]]:
    """Return page -> public names, each with its module, that stand in no other face than the package."""
    known = {name for face in FACES for name in _exported(_source(face))}
    found: dict[str, dict[str, str]] = {}
    for name, module in _exported(PACKAGE / "__init__.pyi").items():
        if name not in known:
            found.setdefault(_room(module).split("/")[-1], {})[name] = module
    if unnamed := set(found) & set(FACES):  # it would be a second page of that name
        raise PluginError(f"A face does not name what lit_continual/__init__.pyi has of its room: {unnamed}.")
    return dict(sorted(found.items()))


def _source(name: str) -> Path:
    candidates = [PACKAGE / f"{name}.py", PACKAGE / name / "__init__.pyi", PACKAGE / name / "__init__.py"]
    return next(path for path in candidates if path.exists())


def _docstring(path: Path) -> str:
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _exported(path: Path) -> dict[str, str]:
    """Return the names that a file imports from the package, each with its module."""
    found = {}
    package = ["lit_continual", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = ".".join([*(package if node.level else ()), *filter(None, [node.module])])
            found |= {alias.name: module for alias in node.names if module.startswith("lit_continual.")}
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return "/".join(parts[1:3] if parts[1] == "methods" else parts[1:2])


def _definitions(name: str, module: str) -> list[str]:
    """Return the text of the file that defines a name, and those of the files that define the bases of a class."""
    path = _source(module.removeprefix("lit_continual.").replace(".", "/"))
    text = path.read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name]
    known = _exported(path)
    bases = [base.id for node in classes for base in node.bases if isinstance(base, ast.Name) and base.id in known]
    return [text, *(one for base in bases for one in _definitions(base, known[base]))]


def _entries(face: str, names: Mapping[str, str]) -> Iterator[str]:
    """Write what mkdocstrings needs, behind the anchors of the public names, by which docstrings refer."""
    for name, module in sorted(names.items()):
        members = MEMBERS.get(name, [])
        own, *bases = _definitions(name, module)
        inherited = [member for member in members if f"def {member}(" not in own]
        if missing := [member for member in inherited if not any(f"def {member}(" in base for base in bases)]:
            raise PluginError(f"{name} has no {', '.join(missing)}, which docs/hooks.py shows of it.")
        yield f"[](){{#lit_continual.{face}.{name}}} [](){{#lit_continual.{name}}}"
        options = f"members: {members or 'false'}, inherited_members: {inherited or 'false'}"
        yield f"::: {module}.{name}\n    options: {{ {options} }}"
