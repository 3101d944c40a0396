"""Command line: ``lit-continual fit|validate|test|predict|report``."""

import copy
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from typing_extensions import override

import lit_continual.callbacks
import lit_continual.data
import lit_continual.modules  # noqa: F401  # lets a config name what is in these rooms by its bare class name
from lit_continual.commands import TOOLS, announce
from lit_continual.run_folder import RunFolder
from lit_continual.storage import AtomicCheckpointIO
from lit_continual.stream import Experience, Stream, StreamLoop, check_stream
from lit_continual.tracking import continue_steps, describe, versions

HELP = {
    "fit": "Learn a stream of experiences one after another, or run one ordinary fit.",
    "validate": "Score a checkpoint on the validation cases of the data, or of each experience.",
    "test": "Score a checkpoint on the test cases of the data, or of each experience.",
}


class Parser(LightningArgumentParser):
    """A parser that says what is wrong in one line, not under a page of options."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        reason = _reason(message)
        sys.stderr.write(f"lit-continual: error: {reason}. See `--help` for the options.\n")
        sys.exit(2)


class ContinualCLI(LightningCLI):
    """LightningCLI whose ``fit`` learns a stream of experiences, with further commands beside it."""

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
            part = self._prepare_subcommand_parser(Trainer, name, description=text)
            if name == "fit":
                part.add_argument("--resume", action="store_true", help="Go on with the run in the folder.")
                part.add_argument("--overwrite", action="store_true", help="Remove the run in the folder first.")
            self._subcommand_parsers[name] = part
            subcommands.add_subcommand(name, part, help=text)
        for name, tool in TOOLS.items():
            self._subcommand_parsers[name] = part = Parser(description=tool.help)
            tool.add_arguments(part)
            subcommands.add_subcommand(name, part, help=tool.help)

    @override
    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: our modules take their heads from a checkpoint when they load it."""

    @override
    def _set_seed(self) -> None:
        if self.subcommand not in TOOLS:
            super()._set_seed()

    @override
    def instantiate_classes(self) -> None:
        if self.subcommand in TOOLS:
            return
        if self.subcommand == "fit" and self.config.fit.stream.experiences:
            self.config_init = self.parser.instantiate_classes(self.config)
            self.model, self.stream = self._get(self.config_init, "model"), self._get(self.config_init, "stream")
        else:
            super().instantiate_classes()

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand in TOOLS:
            TOOLS[subcommand].run(**{k: v for k, v in self.config[subcommand].items() if k != "config"})
        elif subcommand == "fit" and self.config.fit.stream.experiences:
            self.learn()
        else:
            super()._run_subcommand(subcommand)

    def learn(self) -> None:
        """Learn the stream of the config."""
        config = self.config.fit
        data = [self._data(experience) for experience in self.stream.experiences]
        check_stream(self.stream, data)
        folder = RunFolder(Path(config.trainer.default_root_dir or Path("runs") / (self.stream.name or "stream")))
        text = self._parser("fit").dump(_without(config, "resume", "overwrite", "config"), skip_none=False)
        folder.start(text, self._run(folder.path), config.resume, config.overwrite)
        self.loggers = self._loggers(folder)
        loop = StreamLoop(self.stream, self.model, data, self._trainer, folder, config.seed_everything, self.loggers)
        loop.run()
        announce(folder.path)

    def _run(self, path: Path) -> dict[str, Any]:
        """What ``run.json`` says of a run that has just begun."""
        stream = self.stream
        return {
            "format": 1,
            "name": stream.name or path.name,
            "mode": stream.mode,
            "seed": self.config.fit.seed_everything,
            "status": "running",
            "experiences": [
                {"name": e.name, "classes": list(e.classes), "checkpoint": f"experiences/{i}_{e.name}/model.ckpt"}
                for i, e in enumerate(stream.experiences)
            ],
            "scores": {name: vars(score) for name, score in (stream.scores or {}).items()},
            "versions": versions(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _data(self, experience: Experience) -> LightningDataModule:
        """The data module of an experience: the ``data`` section with the experience's own arguments over it.

        Raises:
            ValueError: If an argument is unknown or of the wrong type.
        """
        if self.config.fit.get("data") is None:
            raise ValueError("A stream needs a `data` section: the data module that all experiences share.")
        parser = Parser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        shared = self.config.fit.data.as_dict()
        own = {**experience.data, **({"classes": experience.classes} if experience.classes else {})}
        section = {**shared, "init_args": _merged(shared.get("init_args") or {}, own)}
        try:
            parsed = parser.parse_object({"data": section})
        except Exception as error:
            raise ValueError(f"The data of experience {experience.name} are wrong: {_reason(str(error))}.") from error
        module: LightningDataModule = parser.instantiate_classes(parsed).data
        return module

    def _trainer(self, callbacks: list[Callback], step: int = 0, **overrides: Any) -> Trainer:
        """Make a fresh trainer, with fresh callbacks, from the ``trainer`` section."""
        config = copy.deepcopy(_without(self.config.fit, "model", "data", "stream", "config"))
        config.trainer.logger = None
        options = vars(self._parser("fit").instantiate_classes(config).trainer)
        given = options.get("callbacks") or []
        plugins = options.get("plugins") or []
        options["callbacks"] = [*(given if isinstance(given, list) else [given]), *callbacks]
        options["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        options["logger"] = self.loggers
        for logger in self.loggers:
            continue_steps(logger, step)
        return self.trainer_class(**{**options, **overrides})

    def _loggers(self, folder: RunFolder) -> list[Logger]:
        given = self._get(self.config_init, "trainer").logger
        if given is False:
            return []
        if given is None or given is True:
            return [CSVLogger(folder.path, name="logs")]
        loggers = given if isinstance(given, list) else [given]
        for logger in loggers:
            describe(logger, self.config.fit.as_dict())
        return loggers


def _without(config: Namespace, *keys: str) -> Namespace:
    return Namespace(**{k: v for k, v in vars(config).items() if k not in keys})


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``own`` over ``shared``; mappings are merged, except classes, which one experience names in full."""
    nested = {
        k: _merged(shared[k], v) for k, v in own.items() if isinstance(v, dict) and k != "classes" and shared.get(k)
    }
    return {**shared, **own, **nested}


def _reason(message: str) -> str:
    """Boil a report of jsonargparse down to what is wrong: the first of its tries at a value, followed inwards."""
    lines = [line for line in message.splitlines() if line.strip()]
    skipped = ("Does not validate", "Subtypes", "Errors", "Given value")
    kept, depth = [], -1
    for line in lines:
        indent = len(line) - len(line.lstrip(" -"))
        if indent > depth and not line.strip(" -").startswith(skipped):
            kept.append(line.strip(" -").rstrip(".:"))
            depth = indent
    return ": ".join(kept)


def main(args: ArgsType = None) -> ContinualCLI:
    """Run the command line on ``args``, or on ``sys.argv`` if ``None``, and return it for inspection."""
    try:
        return ContinualCLI(
            parser_class=Parser,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            seed_everything_default=0,
            args=args,
        )
    except (ValueError, OSError, MisconfigurationException) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        config = "jsonargparse" in raised_in.parts  # wraps what a constructor says
        ours = config or raised_in.is_relative_to(Path(__file__).parent)
        if args is not None or not ours or os.environ.get("LIT_CONTINUAL_TRACEBACK"):
            raise
        sys.stderr.write(f"lit-continual: error: {_reason(str(error)) + '.' if config else error}\n")
        sys.exit(1)
