"""The config of a MONAI bundle, read as data: references are followed, and no expression is evaluated."""

from collections.abc import Collection, Mapping
from typing import Any

from lit_continual.files.whole_files import in_one_line
from lit_continual.interop.bundle.bundle_files import shown

EXPRESSIONS = "$"  # what the caller writes among the trusted to have expressions evaluated
DEEPEST, MOST = 20, 100_000  # references in one another, and parts of a section with them written out
#: Sections, each with the object that uses it and its argument: the usual name is used only where that says nothing.
_USERS = {
    "preprocessing": ("dataset", "transform"),
    "inferer": ("evaluator", "inferer"),
    "postprocessing": ("evaluator", "postprocessing"),
}
#: What MONAI takes out of the description of an object.
_NOTES = ("_desc_", "_requires_", "_mode_", "_disabled_")


class BundleConfig:
    """A config of which values are asked for by their id.

    ``@id`` stands for another value of the config. A text that begins with ``$`` is an expression of Python, which
    MONAI evaluates: it is an error here, unless the caller trusts who wrote it.

    Args:
        content: The config.
        source: Where it stands, for errors.
        trust: What the caller trusts; ``"$"`` among it lets MONAI evaluate expressions.
    """

    def __init__(self, content: Mapping[str, Any], source: str, trust: Collection[str] = ()) -> None:
        self.content, self.source, self.trust = dict(content), source, trust
        self._parts = 0  # of the section that is asked for

    def get(self, key: str, default: Any = None) -> Any:
        """A section as plain data, with references followed; expressions in it are left as they are.

        Returns:
            The section, or ``default`` where there is none or it is disabled.

        Raises:
            ValueError: If a reference leads nowhere, or code says which section is used.
        """
        self._parts = 0
        user, argument = _USERS.get(key, ("", ""))
        described = self.content.get(user)
        given = described.get(argument) if isinstance(described, Mapping) else None
        if is_code(given) and key not in self.content:
            given = self.value(given, f"{user}#{argument}")
        found = self._followed(self.content.get(key) if given is None or is_code(given) else given, key)
        return default if found is None or (isinstance(found, Mapping) and self._is_disabled(found, key)) else found

    def steps(self, key: str) -> list[dict[str, Any]]:
        """The transforms of a section that is a ``Compose``, those that are disabled left out.

        Raises:
            ValueError: If the section is something else.
        """
        section = self.get(key) or {}
        found = section.get("transforms") if isinstance(section, Mapping) else section
        if isinstance(section, Mapping) and section and name_of(section) != "Compose":
            found = [section]
        found = [] if not section else found
        if not isinstance(found, list) or not all(isinstance(step, Mapping) and name_of(step) for step in found):
            raise self.wrong(key, "is no list of transforms")
        return [dict(step) for step in found if not self._is_disabled(step, key)]

    def _is_disabled(self, step: Mapping[str, Any], key: str) -> bool:
        """Whether a step is left out, as MONAI reads it: of text, only ``true`` says so."""
        said = self.value(step.get("_disabled_", False), f"{key}#_disabled_")
        return said.strip().lower() == "true" if isinstance(said, str) else bool(said)

    def arguments(self, section: Mapping[str, Any], key: str, left_out: Collection[str] = ()) -> dict[str, Any]:
        """The arguments of a described object as plain values.

        Args:
            section: Its description.
            key: Where it stands, for errors.
            left_out: Arguments that are not looked at.

        Raises:
            ValueError: If one is an expression that is not trusted.
        """
        named = {k: v for k, v in section.items() if k not in {"_target_", *_NOTES, *left_out}}
        return {str(k): self.value(v, f"{key}#{k}") for k, v in named.items()}

    def value(self, given: Any, key: str) -> Any:
        """Plain data, in which expressions are refused or, where they are trusted, evaluated.

        Raises:
            ValueError: If there is an expression that is not trusted, or that fails.
        """
        if isinstance(given, Mapping):
            return {k: self.value(v, f"{key}#{k}") for k, v in given.items()}
        if isinstance(given, list):
            return [self.value(v, f"{key}#{i}") for i, v in enumerate(given)]
        if not is_code(given):
            return given
        if EXPRESSIONS not in self.trust:
            raise ValueError(
                f"`{shown(key)}` in {self.source} is the expression {shown(given)!r}, which is code. Write its value"
                f" there, or give --trust '{EXPRESSIONS}' if you know who wrote it."
            )
        return self._evaluated(given, key)

    def _evaluated(self, expression: str, key: str) -> Any:
        from monai.bundle import ConfigParser

        try:
            found = ConfigParser({**self.content, "_asked": expression}).get_parsed_content("_asked")
        except Exception as error:  # of anybody's code
            raise self.wrong(key, f"cannot be evaluated ({in_one_line(error.__cause__ or error)})") from error
        return found.tolist() if hasattr(found, "tolist") else found

    def _followed(self, value: Any, key: str, depth: int = 0) -> Any:
        self._parts += 1
        if depth > DEEPEST or self._parts > MOST:
            raise self.wrong(key, "refers to itself, or is nested too deeply")
        if isinstance(value, Mapping):
            return {k: self._followed(v, key, depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self._followed(v, key, depth + 1) for v in value]
        if isinstance(value, str) and value[:1] in ("@", "%") and value[1:]:
            return self._followed(self._at(value[1:], key), key, depth + 1)
        return value

    def _at(self, place: str, key: str) -> Any:
        found: Any = self.content
        for part in place.replace("::", "#").split("#"):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                raise self.wrong(key, f"refers to `@{shown(place)}`, which is not in the file")
        return found

    def wrong(self, key: str, what: str) -> ValueError:
        """An error about a part of the config."""
        return ValueError(f"`{shown(key)}` in {self.source} {what}. Correct the bundle, or give another one.")


def is_code(value: Any) -> bool:
    """Whether a value is an expression, which MONAI evaluates."""
    return isinstance(value, str) and value.startswith("$")


def name_of(section: Any) -> str:
    """What a section describes: the bare name of a class of MONAI; nothing where it describes nothing."""
    target = section.get("_target_") if isinstance(section, Mapping) else None
    place, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    return name if place.partition(".")[0] in ("", "monai") else f"{place}.{name}"
