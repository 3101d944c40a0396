"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.patient_episodes import PatientEpisodes
from lit_continual.data.patient_tasks import patient_tasks

__all__ = ["PatientEpisodes", "patient_tasks"]
