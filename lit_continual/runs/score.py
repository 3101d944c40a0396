"""What a number in a report means, and how it is written."""

from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from lit_continual.files.plain_data import require_types

_TITLES = {"dice": "Dice", "precision": "Precision", "assd": "ASSD", "hd95": "HD95", "psnr": "PSNR", "ssim": "SSIM"}
_WORDS = {"cov": "CoV", "rmse": "RMSE"}


@dataclass(frozen=True)
class Score:
    """A score that the module logs as ``test/<name>``: what a column of numbers means.

    Args:
        name: Its name; in a config it is the key.
        higher_is_better: False for distances and errors.
        unit: What it is measured in, such as ``mm``; "" for none.
        baseline: Score of a network that knows nothing, from which FWT is counted; ``None`` leaves FWT out.
    """

    name: str = ""
    higher_is_better: bool = True
    unit: str = ""
    baseline: float | None = None

    @classmethod
    def read(cls, name: str, described: Any) -> "Score":
        """Make the score of a name of what ``run.json`` says of it.

        Raises:
            ValueError: If that is not what a run writes.
        """
        require_types(described, {"higher_is_better": bool})
        require_types(described, {"unit": str, "baseline": float | None}, required=False)
        baseline = described.get("baseline")
        if baseline is not None and not isfinite(baseline):
            raise ValueError(f"the baseline of `{name}` is {baseline}")
        chance = None if baseline is None else float(baseline)
        return cls(name, described["higher_is_better"], described.get("unit", ""), chance)

    @property
    def file(self) -> str:
        """What files are called by, which may be one class's: ``dice_liver`` for ``dice/liver``."""
        return self.name.replace("/", "_")

    @property
    def title(self) -> str:
        """Name and unit, as they are written.

        Example:
            >>> Score("hd95", False, "mm").title, Score("liver_cov", False, "%").title
            ('HD95 (mm)', 'liver CoV (%)')
        """
        words = " ".join(_WORDS.get(word, word) for word in self.name.split("_"))
        title = _TITLES.get(self.name, words)
        return f"{title} ({self.unit})" if self.unit else title

    def text(self, value: float, spread: float = nan, signed: bool = False) -> str:
        """``value ± spread`` with three decimals, two where there is a unit; a dash for what is undefined.

        Example:
            >>> Score("dice").text(0.91234, 0.01), Score("hd95", False, "mm").text(3.14159), Score("dice").text(nan)
            ('0.912 ± 0.010', '3.14', '—')
        """
        if not isfinite(value):
            return "—"
        digits = 2 if self.unit else 3
        text = f"{abs(float(value)):.{digits}f}"  # float: numpy's own rounding differs from Python's
        if float(text):  # no sign on a zero
            text = ("\N{MINUS SIGN}" if value < 0 else "+" if signed else "") + text
        return f"{text} ± {spread:.{digits}f}" if isfinite(spread) else text
