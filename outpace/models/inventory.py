"""Lists and removes the contents of the cache per model: downloaded files, conversions and interrupted downloads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from outpace.errors import BadInputError
from outpace.models import store
from outpace.models.catalog import CATALOG, CatalogModel, lookup
from outpace.models.find import safe_name

CONVERTED = r"-(first(?P<layers>\d+)-)?(?P<precision>[a-z0-9]+)-\d+-[^-]+"  # suffix after name and mark, as written by find.py

PARTLY = "partly fetched"


@dataclass(frozen=True)
class Held:
    """A folder of the cache. `what`: original, partly fetched, or the precision of a conversion; empty for other entries."""

    entry: str
    what: str
    num_bytes: int


def held(model: CatalogModel) -> list[Held]:
    """All cache entries of a catalog model."""
    found = []
    if store.partial(model.name).is_dir():
        found.append(_held(f"partial/{model.name}", PARTLY))
    names = store.entries()
    found += [_held(model.folder, "original")] if model.folder in names else []
    return found + _conversions(names, re.escape(f"{safe_name(model.title)}-{model.mark}"))


def others() -> list[Held]:
    """All cache entries that do not belong to a catalog model."""
    known = {item.entry for model in CATALOG for item in held(model)}
    return [_held(name, "") for name in store.entries() if name not in known]


def remove(name: str) -> list[Held]:
    """Delete a catalog model, the conversions of another model, or one entry; returns the deleted entries.

    Raises BadInputError if the cache contains nothing under this name, OutpaceError while another process writes the entry.
    """
    model = lookup(name)
    if model is not None:
        found = held(model)
    elif name in store.entries():
        found = [_held(name, "")]
    else:
        found = _conversions(store.entries(), rf"{re.escape(safe_name(name))}-[0-9a-f]{{16}}")
    if not found:
        what = f"nothing of {name} is here" if model else f"no model {name!r} is here"
        raise BadInputError(f"{what}; `outpace models` lists what can be removed")
    for item in found:
        store.remove(item.entry, lock=model.folder if model and item.what == PARTLY else "")
    return found


def _held(entry: str, what: str) -> Held:
    return Held(entry, what, store.num_bytes(store.home() / entry))


def _conversions(names: list[str], start: str) -> list[Held]:
    """The entries of conversions whose names match this pattern followed by CONVERTED."""
    found = []
    for name in names:
        if match := re.fullmatch(f"converted/{start}{CONVERTED}", name):
            layers = f" (first {match['layers']} layers)" if match["layers"] else ""
            found.append(_held(name, f"{match['precision']}{layers}"))
    return found
