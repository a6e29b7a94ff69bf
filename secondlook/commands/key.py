"""``secondlook key``."""

from __future__ import annotations

import click


@click.command()
@click.argument("name")
@click.option("--predict", is_flag=True, help="Opens predictions only; without it, the key opens everything.")
def key(name: str, predict: bool) -> None:
    """Make a random key for NAME: the key on standard error, once, and its line for the keys file on standard output.

    To add it: secondlook key NAME >> FILE, with SECONDLOOK_KEYS_FILE=FILE set for the server.
    """
    from secondlook.service.http.keys import NAME_RULE, is_name, new_key

    if not is_name(name):
        raise click.UsageError(f"NAME: {NAME_RULE}")
    secret, made = new_key(name, "predict" if predict else "admin")
    click.echo(f"The key, which is shown only now: {secret}", err=True)
    click.echo(made.line)
