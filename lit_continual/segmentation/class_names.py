"""Names of classes."""

from collections.abc import Sequence


def require_new_names(classes: Sequence[str], known: Sequence[str]) -> None:
    """Check the names of classes that a head grows by.

    Raises:
        ValueError: If there are none, one is known already or twice there, or one is no name that files can hold beside
            that of the background.
    """
    if not classes or set(classes) & set(known) or len(set(classes)) < len(classes):
        raise ValueError(f"A head needs new class names, got {list(classes)} beside {known}.")
    for name in classes:
        if name.encode(errors="ignore").decode() != name or name.strip().lower() in ("", "background"):
            raise ValueError(
                f"A class cannot be called {name!r}: files name it, and the label value 0 is the background. Rename it."
            )
