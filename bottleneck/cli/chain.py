"""Commands that another command runs, each printed as it would be typed."""

import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

from bottleneck.cli.command import COMMANDS, Config
from bottleneck.cli.output import wanted

__all__ = ["Chain"]


class Chain:
    """Commands that are run one after the other, each printed before.

    They are those that a user could type: values that the file of settings or the defaults set
    anyway are left out. What they print goes to standard error where results are printed as JSON.

    Parameters
    ----------
    file : Config
        The file of settings.

    Attributes
    ----------
    commands : list of str
        Those that were run, as typed.
    """

    def __init__(self, file: Config) -> None:
        self.file = file
        self.commands: list[str] = []

    def run(
        self,
        name: str,
        options: Mapping[str, Any],
        refused: Callable[[str, int], Any] | None = None,
    ) -> Any:
        """Print a command and run it.

        Parameters
        ----------
        name : str
            The command.
        options : mapping of str to Any
            Its values by name of the parameter.
        refused : callable, optional
            As for `Command.run`.

        Returns
        -------
        Any
            What its function returns.
        """
        self.commands.append(self.line(name, options))
        with redirect_stdout(sys.stderr if wanted("json") else sys.stdout):
            print(f"\n$ {self.commands[-1]}", flush=True)
            typed = self._typed(name, options)
            return COMMANDS[name].run(typed, self.file.option, refused=refused)

    def arguments(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that a command's function would get.

        Parameters
        ----------
        name, options : str, mapping of str to Any
            As for `run`.

        Returns
        -------
        dict of str to Any
        """
        known = {key: each.value for key, each in self.file.values[name].items()}
        return COMMANDS[name].arguments(known | self._typed(name, options), self.file)

    def line(self, name: str, options: Mapping[str, Any]) -> str:
        """Return a command as typed.

        Parameters
        ----------
        name, options : str, mapping of str to Any
            As for `run`.

        Returns
        -------
        str
        """
        words = ["bottleneck", *name.split()]
        for key, value in self._typed(name, options).items():
            declared = COMMANDS[name].values[key]
            if isinstance(value, bool):
                words.append(declared.flag if value else declared.opposite)
                continue
            for each in value if isinstance(value, tuple) else (value,):
                words += [str(each)] if declared.option.argument else [declared.flag, str(each)]
        return shlex.join([*words, *(["--config", self.file.option] if self.file.option else [])])

    def _typed(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that neither the file nor the defaults set anyway."""
        found = {}
        for key, value in options.items():
            declared, configured = COMMANDS[name].values[key], self.file.values[name].get(key)
            if str(value) != str(configured.value if configured else declared.default):
                found[key] = value
        return found
