"""Command line: ``lit-continual fit|validate|test``, and the commands of :mod:`lit_continual.cli.commands`."""

import copy
import errno
import os
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from typing_extensions import override

import lit_continual
from lit_continual.cli.commands import TOOLS, announce, show_scores
from lit_continual.cli.parser import Parser, made, merged, reason
from lit_continual.runs.checkpoint import Checkpoint
from lit_continual.runs.experience import Experience
from lit_continual.runs.files import FREE_SPACE
from lit_continual.runs.run_folder import RunFolder
from lit_continual.stream.evaluation import judge
from lit_continual.stream.stream import Stream, check_stream
from lit_continual.stream.stream_loop import StreamLoop
from lit_continual.stream.tracking import begin_tracking, calm, continue_steps, end_tracking, tell

#: Everything public, so that a config names it by its bare class name.
PUBLIC = [getattr(lit_continual, name) for name in lit_continual.__all__]

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HELP = {
    "fit": "Learn a stream of experiences one after another, or run one ordinary fit.",
    "validate": "Score a checkpoint on the validation cases of the data, or of each experience.",
    "test": "Score a checkpoint on the test cases of the data, or of each experience.",
}


class ContinualCLI(LightningCLI):
    """LightningCLI whose ``fit`` learns a stream of experiences, with further commands beside it."""

    @override
    def __init__(self, args: ArgsType = None, **options: Any) -> None:
        given = sys.argv[1:] if args is None else args
        self._asked = str(given[0]) if isinstance(given, list) and given else ""  # the command, where it stands first
        super().__init__(args=args, **options)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Stream, "stream")

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in HELP}

    @override
    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        subcommands = parser.add_subcommands()
        for name, text in HELP.items():
            used = name in self._used()
            part = (
                self._prepare_subcommand_parser(Trainer, name, description=text) if used else Parser(description=text)
            )
            if used and name == "fit":
                part.add_argument("--resume", action="store_true", help="Go on with the run in the folder.")
                part.add_argument("--overwrite", action="store_true", help="Remove the run in the folder first.")
            self._subcommand_parsers[name] = part
            subcommands.add_subcommand(name, part, help=text)
        for name, tool in TOOLS.items():
            self._subcommand_parsers[name] = part = Parser(description=tool.help)
            subcommands.add_subcommand(name, part, help=tool.help)
            tool.add_arguments(part)  # may be commands of its own, which must come after it

    def _used(self) -> Collection[str]:
        """The commands of Lightning that this call may come to; making the parser of one takes most of a second."""
        if self._asked in TOOLS:
            return ["fit"] if TOOLS[self._asked].parses else []
        return [self._asked] if self._asked in HELP else HELP

    @override
    def before_instantiate_classes(self) -> None:
        if self.subcommand in HELP and (root := self._section.trainer.default_root_dir):
            self._section.trainer.default_root_dir = os.path.expandvars(root)

    @override
    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: our modules take their heads from a checkpoint when they load it."""

    @override
    def _set_seed(self) -> None:
        if self.subcommand not in TOOLS:
            super()._set_seed()

    @property
    def _section(self) -> Namespace:
        """The config of the subcommand."""
        section: Namespace = self.config[str(self.subcommand)]
        return section

    @property
    def _streams(self) -> bool:
        """Whether the config describes a stream, and not one ordinary run of Lightning."""
        return self.subcommand in HELP and bool(self._section.stream.experiences)

    @override
    def instantiate_classes(self) -> None:
        if self._streams:
            self.config_init = self.parser.instantiate_classes(self.config)
            self.model, self.stream = self._get(self.config_init, "model"), self._get(self.config_init, "stream")
        elif self.subcommand not in TOOLS:
            super().instantiate_classes()

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand in TOOLS:
            tool, parse = TOOLS[subcommand], cast(Parser, self._parser("fit")).parse_for_another
            tool.run(**vars(self._section), **({"parse": parse} if tool.parses else {}))
        elif self._streams:
            with calm():
                self._learn() if subcommand == "fit" else self._judge(subcommand)
        elif self._section.get("resume") or self._section.get("overwrite"):
            raise ValueError("--resume and --overwrite are for streams. Give --ckpt_path to resume an ordinary fit.")
        else:
            super()._run_subcommand(subcommand)

    def _learn(self) -> None:
        """Learn the stream of the config."""
        config = self._section
        data = [self._data(experience) for experience in self.stream.experiences]
        models = [self._model(experience) for experience in self.stream.experiences]
        check_stream(self.stream, data)
        start = None if self.stream.start is None else Checkpoint(self.stream.start)
        if start is not None:
            start.restore(copy.deepcopy(models[0]))
        folder = RunFolder(Path(config.trainer.default_root_dir or Path("runs") / (self.stream.name or "stream")))
        text = self._parser("fit").dump(_without(config, "resume", "overwrite", "config"), skip_none=False)
        described = self.stream.described(folder.path.resolve().name, config.seed_everything, self.model)
        folder.start(text, described, config.resume, config.overwrite)
        self.loggers = self._loggers(folder)
        loop = StreamLoop(
            self.stream, models, data, self._trainer, folder, config.seed_everything, self.loggers, start,
            resumable=config.trainer.enable_checkpointing is not False,
        )  # fmt: skip
        loop.run()
        end_tracking(self.loggers)
        announce(folder.path)

    def _judge(self, stage: Any) -> None:
        """Score a checkpoint on each experience whose classes it has."""
        path = self._section.ckpt_path
        if path is None:
            raise ValueError(f"`{stage}` on a stream needs --ckpt_path, such as RUN/experiences/0_NAME/model.ckpt.")
        data = {experience.name: self._data(experience) for experience in self.stream.experiences}
        check_stream(self.stream, list(data.values()))
        Checkpoint(path).restore(self.model)
        known, self.loggers = set(getattr(self.model, "classes", [])), []
        learnt = [e.name for e in self.stream.experiences if set(e.classes) <= known]
        if left := [name for name in data if name not in learnt]:
            tell(f"Not scored, since {path} has no head for their classes: {', '.join(left)}")
        found = {name: judge(self._trainer([]), self.model, data[name], stage) for name in learnt}
        show_scores(found, self.stream.scores or ())

    def _data(self, experience: Experience) -> LightningDataModule:
        """The data module of an experience: the ``data`` section with the experience's own arguments over it.

        Raises:
            ValueError: If an argument is unknown or of the wrong type.
        """
        if self._section.get("data") is None:
            raise ValueError("A stream needs a `data` section: the data module that all experiences share.")
        section = self._with(experience.data, "data")
        if experience.classes:
            section = {**section, "init_args": {**(section.get("init_args") or {}), "classes": experience.classes}}
        data: LightningDataModule = made(
            "data", LightningDataModule, section, f"data of experience {experience.name} are"
        )
        return data

    def _model(self, experience: Experience) -> LightningModule:
        """The model of an experience: the ``model`` section with the experience's own arguments over it.

        Raises:
            ValueError: If an argument is unknown or of the wrong type.
        """
        model: LightningModule = self.model
        if experience.model:
            section = self._with(experience.model, "model")
            model = made("model", LightningModule, section, f"model of experience {experience.name} is")
        return model

    def _with(self, own: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Lay an experience's arguments over those of a section; a ``class_path`` takes its place."""
        shared = self._section[key].as_dict()
        return dict(own) if "class_path" in own else {**shared, "init_args": merged(shared.get("init_args") or {}, own)}

    def _trainer(
        self, before: list[Callback], behind: Sequence[Callback] = (), step: int = 0, **overrides: Any
    ) -> Trainer:
        """Make a fresh trainer, with fresh callbacks, from the ``trainer`` section."""
        config = copy.deepcopy(_without(self._section, "model", "data", "stream", "config"))
        config.trainer.logger = None
        options = vars(self._parser(self.subcommand).instantiate_classes(config).trainer)
        options["callbacks"] = [*before, *_listed(options.get("callbacks")), *behind]
        options["logger"], options["enable_checkpointing"] = self.loggers, True  # each fit leaves one
        for logger in self.loggers:
            continue_steps(logger, step)
        return self.trainer_class(**{**options, **overrides})

    def _loggers(self, folder: RunFolder) -> list[Logger]:
        given = self._get(self.config_init, "trainer").logger
        if given is False:
            return []
        loggers = [] if given is True else _listed(given)
        if loggers:
            begin_tracking(loggers, self._section.as_dict(), folder.run["tracking_id"])
        return [*loggers, CSVLogger(folder.path, name="logs")]  # a sweep reads it, whoever else is told


def _listed(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]


def _without(config: Namespace, *keys: str) -> Namespace:
    return Namespace(**{k: v for k, v in vars(config).items() if k not in keys})


def main(args: ArgsType = None) -> ContinualCLI:
    """Run the command line on ``args``, or on ``sys.argv`` if ``None``, and return it for inspection."""
    try:
        return ContinualCLI(
            parser_class=Parser,
            parser_kwargs={"description": "Continual learning for medical images, on PyTorch Lightning."},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            seed_everything_default=0,
            args=args,
        )
    except (ValueError, OSError, MisconfigurationException) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        config = "jsonargparse" in raised_in.parts  # wraps what a constructor says
        full = isinstance(error, OSError) and error.errno in DISK_FULL  # where others write, such as a logger
        ours = config or full or raised_in.is_relative_to(Path(__file__).parents[1])
        if args is not None or not ours or os.environ.get("LIT_CONTINUAL_TRACEBACK"):
            raise
        text = reason(str(error)) + "." if config else f"{error}. {FREE_SPACE}" if full else str(error)
        sys.stderr.write(f"lit-continual: error: {text}\n")
        sys.exit(1)
