"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.shoulder_phantom import shoulder_subject, write_shoulder_phantom

__all__ = ["shoulder_subject", "write_shoulder_phantom"]
