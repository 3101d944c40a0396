"""What MkDocs does here beyond its plugins: formulas become MathML, and every room gets an API page."""

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "lit_continual"

BLOCK = re.compile(r"^(?:\.\. math::[ ]*(.+(?:\n[ ]*\S.*)*)|\$\$\s*([^$]+?)\s*\$\$)$", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`|(?<![\w\\`$])\$([^$`\n]+)\$(?!\w)")
DOCTEST = re.compile(r"(?:\A|(?<=\n\n))>>> .*(?:\n.*\S.*)*")
REFERENCE = re.compile(r":(?:class|func|meth|attr|mod):`~?(lit_continual[\w.]*?)([\w]+)`")


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
        return self.md.htmlStash.store(f"<p>{formula}</p>" if display == "block" else formula)

    def _reference(self, match: re.Match[str]) -> str:
        # Optional: what a room does not export has no place to lead to.
        link = f'<autoref identifier="{match[1]}{match[2]}" optional><code>{match[2]}</code></autoref>'
        return self.md.htmlStash.store(link)


class DocstringExtension(Extension):
    """Markdown with what docstrings hold beyond it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # the name is Markdown's
        """Find examples before fenced code is set aside, and formulas after."""
        md.preprocessors.register(Doctests(md), "doctests", 30)
        md.preprocessors.register(Formulas(md), "formulas", 21)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read pages and docstrings with the extension, and put every method and room into the navigation."""
    config.markdown_extensions.append(DocstringExtension())  # type: ignore[arg-type]
    methods = sorted((PACKAGE.parent / "docs" / "methods").glob("*.md"))
    config.nav = [
        *(config.nav or []),
        {"Methods": [f"methods/{path.name}" for path in methods]},
        {"Reference": [f"reference/{name}.md" for name in _rooms()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the page ``reference/x.md`` for every room and top-level module ``x``."""
    for name in _rooms():
        if (PACKAGE / name).is_dir():
            content = _room(PACKAGE / name)
        else:
            content = f"# {name}\n\n::: lit_continual.{name}\n    options: {{ show_root_heading: false }}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _rooms() -> list[str]:
    modules = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*modules, *(path.parent.name for path in PACKAGE.glob("*/__init__.py"))])


def _room(path: Path) -> str:
    """Write the page of a room: its docstring and, of every module it exports from, what it exports."""
    tree = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
    parts = [f"# {path.stem}", ast.get_docstring(tree) or ""]
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exported = sorted((alias.name, node.module or "") for node in imports for alias in node.names)
    for name, module in (pair for pair in exported if pair[1].startswith("lit_continual.")):
        # The anchor is what references name: a file of the same name can hide a function from mkdocstrings.
        parts += [f"[](){{#lit_continual.{path.stem}.{name}}}", f"::: {module}.{name}"]
    return "\n\n".join(parts) + "\n"
