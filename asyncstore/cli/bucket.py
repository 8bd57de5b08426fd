"""``asyncstore bucket``: make an S3 bucket ready, check it, and grant access to it."""

import typer

from asyncstore.cli import _bucket_check, _bucket_init, _bucket_policy

__all__ = ["NAME", "app"]

NAME = "bucket"
app = typer.Typer(help="Make an S3 bucket ready, check it, and grant access to it.", no_args_is_help=True)
_bucket_init.register(app)
_bucket_check.register(app)
_bucket_policy.register(app)


@app.callback()
def group() -> None:
    """Keep the group: an application with one command would be that command."""
