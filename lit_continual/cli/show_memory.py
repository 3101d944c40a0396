"""What a memory of exemplars holds, in the terminal."""

from collections.abc import Iterable

from rich.table import Table

from lit_continual.files.printing import show
from lit_continual.methods.rehearsal.exemplar import Exemplar
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory


def show_memory(memory: ExemplarMemory, exemplars: bool = False) -> None:
    """Print what a memory holds: a row a class of each experience, a row a patient, and on request a row an exemplar.

    Raises:
        ValueError: If there is no memory in the folder, or an exemplar is missing or damaged.
    """
    memory.require()
    stored = memory.exemplars
    by_class, by_patient = (
        Table("experience", "class", "exemplars", "MB"),
        Table("patient", "exemplars", "MB", "source"),
    )
    for name, facts in memory.experiences.items():
        for label in facts["classes"]:
            own = [e for e in stored if e.experience == name and label in e.picked_for]
            by_class.add_row(name, label, str(len(own)), _megabytes(own))
    for patient, source in dict.fromkeys((e.patient, e.source) for e in stored):
        own = [e for e in stored if (e.patient, e.source) == (patient, source)]
        by_patient.add_row(patient, str(len(own)), _megabytes(own), source)
    listing = Table("experience", "patient", "slice", "classes", "score", "why", "file")
    for e in stored if exemplars else []:
        score, z = ", ".join(f"{value:.3g}" for value in e.score.values()), "all" if e.slice is None else str(e.slice)
        listing.add_row(e.experience, e.patient, z, ", ".join(e.classes), score, e.why, e.file)
    free = ". Exemplar-free: nothing of any patient is kept" if memory.manifest.get("exemplar_free") else ""
    show(f"{memory.folder}: {len(stored)} exemplars, {_megabytes(stored)} MB{free}.")
    show(by_class, soft_wrap=False)
    for table in (by_patient, listing):
        if table.rows:
            show(table, soft_wrap=False)
    for exemplar in stored:
        memory.load(exemplar)  # says what is missing or damaged


def _megabytes(exemplars: Iterable[Exemplar]) -> str:
    return f"{sum(exemplar.bytes for exemplar in exemplars) / 1e6:.2f}"
