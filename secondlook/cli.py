"""The ``secondlook`` command: one table of commands, each imported only when it is called.

Importing lazily keeps ``secondlook --help`` fast, lets a CPU server run where torch is not installed, and has a Ctrl-C
that comes while a command is imported end in a line.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys

import click

from secondlook.model.errors import MemoryLimitError, ParameterError, RecipeError, SecondlookError, StoreError

COMMANDS = {
    "start": "secondlook.commands.start:start",
    "serve": "secondlook.commands.serve:serve",
    "classify": "secondlook.commands.classify:classify",
    "embed": "secondlook.commands.embed:embed",
    "network": "secondlook.commands.network:network",
    "index": "secondlook.commands.index:index",
    "fit": "secondlook.commands.fit:fit",
    "evaluate": "secondlook.commands.evaluate:evaluate",
    "audit": "secondlook.commands.audit:audit",
    "map": "secondlook.commands.map:map_",
    "suggest": "secondlook.commands.suggest:suggest",
    "jacobian": "secondlook.commands.jacobian:jacobian",
    "reproduce": "secondlook.commands.reproduce:reproduce",
    "study": "secondlook.commands.study:study",
    "attack": "secondlook.commands.attack:attack",
    "train": "secondlook.commands.train:train",
    "import-keras": "secondlook.commands.import_keras:import_keras",
    "bundles": "secondlook.commands.bundles:bundles",
    "taught": "secondlook.commands.taught:taught",
    "key": "secondlook.commands.key:key",
}

GONE = {
    "bench": "benchmarks are no command of secondlook any more: in the project's folder, type python -m benchmarks",
    "plan": "there is no plan any more: docs/scaling.md has what was measured; in the project's folder, type "
    "python -m benchmarks stores to measure your own machine",
}
"""Commands that there were, and what to type now."""

BAD_REQUESTS = (RecipeError, StoreError, ParameterError, MemoryLimitError)
"""Errors in what was asked for, found before any work: exit 2, like a wrong option."""


class _LazyGroup(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in GONE:
            raise click.UsageError(GONE[name])
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secondlook")
def cli() -> None:
    """A second opinion for image classifiers from a key-value cache, without training."""


def main(command: click.Command = cli) -> None:
    """Run a command. Exit 0 = done, 1 = failed (one line says why), 2 = bad usage."""
    # A cancelled rebuild, say: leave through the "finally"s, which remove what is half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label that the terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command.main(standalone_mode=False)
        if isinstance(status, int):  # what a command gave to Exit
            sys.exit(status)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except SecondlookError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, BAD_REQUESTS) else 1)
    except OSError as error:
        from secondlook.commands.shared.options import describe

        click.echo(f"Error: {describe(error)}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        from secondlook.extras import remedy

        click.echo(f"Error: this command {remedy(error)}", err=True)
        sys.exit(1)
