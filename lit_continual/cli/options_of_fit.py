"""The options of ``fit``, for those who prepare command lines."""

from collections.abc import Sequence
from typing import cast

from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from typing_extensions import override

from lit_continual.cli.configs import parsed_anew, print_old_form, require_of_streams
from lit_continual.cli.continual_cli import ContinualCLI
from lit_continual.cli.parser import Parser
from lit_continual.stream.section import reason

PRINTED = ("-h", "--help", "--print_config")  # by these


class OptionsOfFit(ContinualCLI):
    """The options of ``fit``, to check command lines that other processes will run."""

    def __init__(self) -> None:
        self.printed = False  # one line, however many command lines there are
        super().__init__("fit", [])
        self.parser.exit_on_error = False

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = Namespace(seed_everything=False)  # there is nothing to run

    @override
    def instantiate_classes(self) -> None:
        pass

    def parse(self, arguments: Sequence[str]) -> Namespace:
        """Parse the arguments of a ``fit``.

        Raises:
            ValueError: If one is unknown or of the wrong type, or is not for the fits of a stream.
        """
        if others := [text for text in arguments if text.partition("=")[0] in PRINTED]:
            raise ValueError(f"{others[0]} prints something in place of a fit. Leave it out.")
        self.printed = self.printed or print_old_form(arguments)
        try:
            parsed = parsed_anew(self.parser, arguments)
        except Exception as error:
            remedy = cast(Parser, self.parser).nearest(str(error))
            raise ValueError(f"{reason(str(error))}. {remedy}".strip()) from error
        if parsed.stream.experiences:
            require_of_streams(parsed)
        return parsed
