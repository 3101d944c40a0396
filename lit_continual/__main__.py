"""Run the command line: ``python -m lit_continual``, and ``lit-continual`` where it is installed."""

from lit_continual.cli import main


def command() -> None:
    """Run the command line on ``sys.argv``; what this returns, nothing, is the exit status of ``lit-continual``."""
    main()


if __name__ == "__main__":
    command()
