"""The scores of one case, as a line of ``cases.csv``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from typing_extensions import Self

from lit_continual.files.whole_files import HIGHEST


@dataclass(frozen=True)
class CaseScores:
    """The scores of one class in one volume of experience ``on``, after experience ``after``; nan is undefined.

    ``volume`` is the name of its file, which distinguishes the volumes of a patient; "" in runs that did not note it.
    """

    after: int
    on: int
    patient: str
    label: str
    values: Mapping[str, float]
    volume: str = ""

    @classmethod
    def read(cls, row: Mapping[str, Any], scores: Iterable[str], experiences: int) -> Self:
        """Make it from a line.

        Raises:
            ValueError: If the line is damaged.
            KeyError: If it lacks a column.
        """
        after, on = int(row["after"]), int(row["on"])
        if not (0 <= after < experiences and 0 <= on < experiences):
            raise ValueError(f"experience {on if 0 <= after < experiences else after}, and there are {experiences}")
        values = {score: float(row[score] or nan) for score in scores}
        values = {k: v if abs(v) <= HIGHEST else nan for k, v in values.items()}
        return cls(after, on, row["patient"], row["class"], values, row.get("volume", ""))

    def row(self) -> dict[str, str | int]:
        """The line, by column."""
        written = {name: "" if isnan(value) else f"{value:.6g}" for name, value in self.values.items()}
        whose = {"patient": self.patient, "volume": self.volume}
        return {"after": self.after, "on": self.on, **whose, "class": self.label, **written}
