"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""
