"""The commands `outpace models`, `outpace models rm` and `outpace pull`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options.option_types import AsJson
from outpace.errors import BadInputError

if TYPE_CHECKING:
    from outpace.models.catalog import CatalogModel
    from outpace.models.inventory import Held

INDENT = " " * 12


def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models of the catalog and the contents of the cache.

    Example: `outpace models`, then `outpace pull coder-0.5b` and `outpace models rm coder-0.5b`
    """
    if context.invoked_subcommand is not None:
        return
    from outpace.models import catalog, inventory, store

    if as_json:
        known = [_document(model, inventory.held(model)) for model in catalog.CATALOG]
        typer.echo(json.dumps({"home": str(store.home()), "entries": store.listing(), "catalog": known}))
        return
    for model in catalog.CATALOG:
        _show(model, inventory.held(model), model is catalog.lookup(catalog.DEFAULT_MODEL))
    if others := inventory.others():
        typer.echo("\nalso in the cache:")
        for item in others:
            typer.echo(f"  {size(item.num_bytes):>8}  {item.entry}")
    typer.echo(f"\ncache: {store.home()}")
    typer.echo("--model takes one of these names, default, a hub id such as org/name, a model folder, or a .gguf file")


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A short name, a hub id, or an entry of the cache.")],
) -> None:
    """Remove a model from the cache: the downloaded file and its conversions.

    Example: `outpace models rm coder-0.5b`
    """
    from outpace.models.inventory import remove as remove_from_cache

    removed = remove_from_cache(name)
    typer.echo(f"removed {name}: {_sizes(removed)}; {size(sum(item.num_bytes for item in removed))} freed")


def pull(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A short name that `outpace models` lists, or a hub id such as org/name.")],
    as_json: AsJson = False,
) -> None:
    """Download a model into the cache, so that later commands need no network. An interrupted download resumes.

    Example: `outpace pull coder-0.5b`
    """
    from outpace.models.find import locate
    from outpace.models.store import num_bytes

    if Path(model).exists():
        raise BadInputError(f"{model} is a path here; there is nothing to fetch")
    source = locate(model)
    total = source.path.stat().st_size if source.path.is_file() else num_bytes(source.path)
    if as_json:
        typer.echo(json.dumps({"name": model, "title": source.name, "path": str(source.path), "num_bytes": total}))
    else:
        typer.echo(f"{model} is here: {size(total)} in {source.path}")


def size(num_bytes: int) -> str:
    """Format a number of bytes for display: 98 MB, 1.1 GB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _show(model: CatalogModel, held: Sequence[Held], is_default: bool) -> None:
    default = " (default)" if is_default else ""
    typer.echo(f"{model.name:<{len(INDENT)}}{model.title}{default}")
    typer.echo(f"{INDENT}{model.description}")
    facts = f"{model.parameters} parameters, {model.licence}, {size(model.num_bytes)} to fetch, {size(model.memory_bytes)} of memory"
    typer.echo(f"{INDENT}{facts}")
    typer.echo(f"{INDENT}here: {_sizes(held)}" if held else f"{INDENT}not here: outpace pull {model.name}")


def _sizes(held: Sequence[Held]) -> str:
    return ", ".join(f"{item.what or item.entry} {size(item.num_bytes)}" for item in held)


def _document(model: CatalogModel, held: Sequence[Held]) -> dict[str, Any]:
    names = ("name", "title", "parameters", "licence", "description", "num_bytes", "memory_bytes")
    return {**{name: getattr(model, name) for name in names}, "held": [asdict(item) for item in held]}
