"""Run the command line: ``python -m lit_continual``."""

from lit_continual.cli import command

if __name__ == "__main__":
    command()
