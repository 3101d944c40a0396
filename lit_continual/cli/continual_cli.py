"""``lit-continual fit|validate|test``: LightningCLI, whose ``fit`` learns a stream of experiences."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from typing_extensions import override

import lit_continual
from lit_continual.cli.configs import merged, parsed_anew, print_old_form, require_of_streams, without
from lit_continual.cli.parser import Parser
from lit_continual.cli.print_report import report_of
from lit_continual.cli.show_scores import show_scores
from lit_continual.files.bounded_yaml import safe_load
from lit_continual.files.outputs import require_apart, require_folder
from lit_continual.files.whole_files import is_first_rank
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.experience import Experience
from lit_continual.runs.run_folder import RunFolder
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.volume_scores import SCORES
from lit_continual.stream import signals
from lit_continual.stream.evaluation import evaluate
from lit_continual.stream.rehearsal import (
    explained,
    rehearse,
    rehearse_ordinary,
    require_devices,
    require_scored,
    with_added,
)
from lit_continual.stream.section import instantiate
from lit_continual.stream.stream import Stream, check_stream
from lit_continual.stream.stream_loop import StreamLoop
from lit_continual.stream.tracking import announce, begin_tracking, continue_steps, end_tracking, quiet, without_version

#: Everything public, so that a config names it by its bare class name.
PUBLIC = [getattr(lit_continual, name) for name in lit_continual.__all__]
OF_STREAMS = ("resume", "resume_with_changes", "overwrite")  # options of ``fit``


class LightningParser(Parser, LightningArgumentParser):
    """The parser of LightningCLI with the errors of :class:`Parser`."""


class ContinualCLI(LightningCLI):
    """LightningCLI of one command, which :meth:`run` runs.

    Its parser is made with ``run=False``, which has no commands: :mod:`lit_continual.cli.dispatch` chooses among them,
    and making a parser takes most of a second.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        arguments: What stands behind it.
        description: What its help says of it.
    """

    def __init__(self, command: str, arguments: Sequence[str], description: str | None = None) -> None:
        self.command = command
        super().__init__(
            run=False,
            args=list(arguments),
            parser_class=LightningParser,
            parser_kwargs={"prog": f"lit-continual {command}", "description": description},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            seed_everything_default=0,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Stream, "stream")
        skipped = LightningCLI.subcommands()[self.command]
        self.options = parser.add_method_arguments(Trainer, self.command, skip={*skipped})  # such as `ckpt_path`
        if self.command == "fit":
            parser.add_argument("--resume", action="store_true", help="Go on with the run in the folder.")
            parser.add_argument("--resume-with-changes", action="store_true", help="Go on though settings differ.")
            parser.add_argument("--overwrite", action="store_true", help="Remove the run in the folder first.")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        arguments = cast(Sequence[str], args)
        print_old_form(arguments)
        self.config = parsed_anew(parser, arguments)

    @override
    def instantiate_classes(self) -> None:
        require_devices(self.config.trainer.devices)
        if root := self.config.trainer.default_root_dir:
            self.config.trainer.default_root_dir = os.path.expandvars(root)
        self.text = self.parser.dump(without(self.config, *OF_STREAMS, "config"), skip_none=False, skip_validation=True)
        self.config_dump = safe_load(self.text)  # else Lightning dumps it again, for the modules' hyperparameters
        if self.config.stream.experiences:
            # Without the trainer: what makes an optimizer holds its config, and a copy of a logger is another run.
            parts = self.parser.instantiate_classes(without(self.config, "trainer", "config"))
            self.model, self.stream = parts.model, parts.stream
            rest = without(self.config, "model", "data", "stream", "config")
            self.config_init = self.parser.instantiate_classes(rest)
        else:
            with quiet(infos=True):
                super().instantiate_classes()

    @override
    def instantiate_trainer(self, **options: Any) -> Trainer:
        with explained("The section `trainer` is wrong"):
            return super().instantiate_trainer(**options)

    def run(self) -> None:
        """Run the command: on a stream, or where the config has none as Lightning does."""
        if self.config.stream.experiences:
            with quiet():
                self._learn() if self.command == "fit" else self._evaluate(self.command)
        elif any(self.config.get(name) for name in OF_STREAMS):
            raise ValueError("--resume and --overwrite are for streams. Give --ckpt_path to resume an ordinary fit.")
        else:
            signals.advise("go on with --ckpt_path" if self.command == "fit" else "run the command again")
            options = {name: self.config_init[name] for name in self.options}
            rehearse_ordinary(self.command, self.trainer, self.model, self.datamodule, options)
            states = "$^" if self.command == "fit" else ".*callbacks used to create the checkpoint"  # no part of scores
            with quiet(infos=True, also=states):
                getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **options)

    def _learn(self) -> None:
        """Learn the stream of the config."""
        config, self.loggers = self.config, list[Logger]()
        require_of_streams(config)
        start = None if self.stream.start is None else Checkpoint(self.stream.start)
        data = [self._data(experience, start) for experience in self.stream.experiences]
        models = [self._model(experience) for experience in self.stream.experiences]
        check_stream(self.stream, data)
        trainer = self._trainer([])
        if isinstance(self.model, Segmenter) and type(self.model).__module__.startswith(f"{lit_continual.__name__}."):
            self.stream.require_logged(with_added(SCORES, trainer), type(self.model).__name__)
        begun = {id(model): _restored(model, start) for model in models}  # often one for all
        logged = config.trainer.logger is not False
        rehearse(self.stream, [begun[id(model)] for model in models], data, trainer, logged)
        folder = RunFolder(Path(config.trainer.default_root_dir or Path("runs") / (self.stream.name or "stream")))
        self._require_apart(folder)
        with folder.lock() as left:
            if left:
                announce(f"{folder.path}: {left}, which was at work here, is gone")
            described = self.stream.described(folder.path.resolve().name, config.seed_everything, begun[id(models[0])])
            if said := folder.start(self.text, described, config.resume, config.overwrite, config.resume_with_changes):
                announce(said)
            if is_first_rank() and folder.run.get("threads", torch.get_num_threads()) != torch.get_num_threads():
                announce(f"{folder.path} keeps its {folder.run['threads']} threads: their number changes the last bits")
                torch.set_num_threads(folder.run["threads"])
            self.loggers = self._loggers(folder)
            loop = StreamLoop(
                self.stream, models, data, self._trainer, folder, config.seed_everything, self.loggers, start,
                resumable=config.trainer.enable_checkpointing is not False,
            )  # fmt: skip
            loop.run()
            end_tracking(self.loggers)
            report_of(folder.path)

    def _require_apart(self, folder: RunFolder) -> None:
        """Refuse a run that would write over what it reads."""
        option, memory = "--trainer.default_root_dir", self.stream.memory
        require_folder(folder.path, option)
        starts = [path for path in (self.stream.start, memory and memory.start) if path]
        if self.config.overwrite:
            inside = [Path(path) for path in starts if folder.path.resolve() in Path(path).resolve().parents]
            require_apart(inside, starts, option)
        elif not (folder.path / "run.json").exists():
            require_apart([folder.path / "config.yaml"], self.config.config or (), option)

    def _evaluate(self, stage: Any) -> None:
        """Score a checkpoint on each experience whose classes it has."""
        path = self.config.ckpt_path
        if path is None:
            raise ValueError(f"`{stage}` on a stream needs --ckpt_path, such as RUN/experiences/0_NAME/model.ckpt.")
        require_scored(stage, self.config.trainer)
        opened = Checkpoint(path)
        data = {experience.name: self._data(experience, opened) for experience in self.stream.experiences}
        check_stream(self.stream, list(data.values()))
        opened.restore(self.model)
        known, self.loggers = set(getattr(self.model, "classes", [])), []
        learnt = [e.name for e in self.stream.experiences if set(e.classes) <= known]
        if left := [name for name in data if name not in learnt]:
            announce(f"Not scored, since {path} has no head for their classes: {', '.join(left)}")
        found = {name: evaluate(self._trainer([]), self.model, data[name], stage) for name in learnt}
        show_scores(found, self.stream.scores or ())

    def _data(self, experience: Experience, start: Checkpoint | None) -> LightningDataModule:
        """The data module of an experience: the ``data`` section with the experience's own arguments over it.

        One that prepares images as the model it starts from was trained is told what that is.
        """
        if self.config.get("data") is None:
            raise ValueError("A stream needs a `data` section: the data module that all experiences share.")
        section = self._with(experience.data, "data")
        if experience.classes:
            section = {**section, "init_args": {**(section.get("init_args") or {}), "classes": experience.classes}}
        data = instantiate(LightningDataModule, section, f"The data of experience {experience.name} are wrong")
        if start is not None and hasattr(data, "follow"):
            data.follow(start)
        return data

    def _model(self, experience: Experience) -> LightningModule:
        """The model of an experience: the ``model`` section with the experience's own arguments over it."""
        if not experience.model:
            return cast(LightningModule, self.model)
        section = self._with(experience.model, "model")
        return instantiate(LightningModule, section, f"The model of experience {experience.name} is wrong")

    def _with(self, own: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Lay an experience's arguments over those of a section; a ``class_path`` takes its place."""
        shared = self.config[key].as_dict()
        return dict(own) if "class_path" in own else {**shared, "init_args": merged(shared.get("init_args") or {}, own)}

    def _trainer(
        self, before: list[Callback], behind: Sequence[Callback] = (), step: int = 0, **overrides: Any
    ) -> Trainer:
        """Make a fresh trainer, with fresh callbacks, from the ``trainer`` section."""
        config = copy.deepcopy(without(self.config, "model", "data", "stream", "config"))
        config.trainer.logger = None
        options = vars(self.parser.instantiate_classes(config).trainer)
        options["callbacks"] = [*before, *_listed(options.get("callbacks")), *behind]
        options["logger"], options["enable_checkpointing"] = self.loggers, True  # each fit leaves one
        for logger in self.loggers:
            continue_steps(logger, step)
        with explained("The section `trainer` is wrong"):
            return without_version(self.trainer_class(**{**options, **overrides}))

    def _loggers(self, folder: RunFolder) -> list[Logger]:
        given = self.config_init.trainer.logger
        if given is False:
            return []
        if loggers := [] if given is True else _listed(given):
            begin_tracking(loggers, self.config.as_dict(), folder.run.get("tracking_id", ""))
        return [*loggers, CSVLogger(folder.path, name="logs")]  # a sweep reads it


def _restored(model: LightningModule, start: Checkpoint | None) -> LightningModule:
    """A copy of a model as the first fit begins with it."""
    if start is not None:
        model = copy.deepcopy(model)
        start.restore(model)
    return model


def _listed(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]
