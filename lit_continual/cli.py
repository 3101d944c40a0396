"""Command line: ``lit-continual fit|validate|test|predict|report``."""

import copy
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from typing_extensions import override

import lit_continual.callbacks
import lit_continual.data
import lit_continual.modules  # noqa: F401  # lets a config name what is in these rooms by its bare class name
from lit_continual.prediction import predict
from lit_continual.reports import matrix_table, write_report
from lit_continual.run_folder import RunFolder
from lit_continual.storage import AtomicCheckpointIO
from lit_continual.stream import Experience, Stream, StreamLoop, check_stream
from lit_continual.tracking import continued, describe

Tool = tuple[str, Callable[[LightningArgumentParser], None], Callable[[Namespace], None]]


class ContinualCLI(LightningCLI):
    """LightningCLI whose ``fit`` learns a stream of experiences, with further commands beside it."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Stream, "stream")

    @override
    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        subcommands = parser.add_subcommands()
        for name in self.subcommands():
            fn = getattr(self.trainer_class, name)
            part = self._prepare_subcommand_parser(Trainer, name, description=HELP[name])
            if name == "fit":
                part.add_argument("--resume", action="store_true", help="Go on with the run in the folder.")
                part.add_argument("--overwrite", action="store_true", help="Remove the run in the folder and start anew.")
            self._subcommand_parsers[name] = part
            subcommands.add_subcommand(name, part, help=HELP[name])
        for name, (description, add_arguments, _) in TOOLS.items():
            part = LightningArgumentParser(description=description)
            add_arguments(part)
            self._subcommand_parsers[name] = part
            subcommands.add_subcommand(name, part, help=description)
