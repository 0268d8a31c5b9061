"""The commands on the cache: ls, info, verify, compact, prune, export, import."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, print_table, progress_shown, show, wanted
from bottleneck.cli.streams import note
from bottleneck.cli.summary import note_image_set
from bottleneck.errors import (
    STORE_AGAIN,
    CacheError,
    PathMissingError,
    UsageError,
    counted,
    some_of,
)
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings import ExportSettings, FeatureSettings, ImportSettings
from bottleneck.settings.values import Age, ByteSize, Compression, Count, Seed

if TYPE_CHECKING:
    from bottleneck.cache import Bank
    from bottleneck.cache.pruning import Prunable
    from bottleneck.exchange import Exchange
    from bottleneck.extract import Recheck

__all__ = [
    "cache_compact",
    "cache_export",
    "cache_import",
    "cache_info",
    "cache_ls",
    "cache_prune",
    "cache_verify",
]


_SPARE = ("resized", "input", "dtype", "parts", "computed_in", "weights", "model", "pool", "views")
"""Columns of the list of banks that fewer readers need."""


@add_command("cache ls", "Features", "as_json", "wide")
def cache_ls(cache: options.CacheFolder = Path("cache")) -> None:
    """List the banks: folders of features that were computed in the same way."""
    rows = []
    for bank in bottleneck.Cache(cache).bank_folders():
        try:
            rows.append(_summary(bank))
        except CacheError as error:
            note(f"note: bank {bank.name} is skipped: {error}")
    if rows or wanted("json"):
        print_table(rows, spare=_SPARE)
    else:
        print(f"no banks in {cache}; 'bottleneck extract' creates them")


@add_command("cache info", "Features", "as_json", "wide")
def cache_info(
    bank: Annotated[str, Doc("Name of a bank, or its beginning, such as the model."), ARGUMENT],
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Show how the features of banks were computed."""
    banks = bottleneck.Cache(cache).find_banks(bank)
    infos = [{"bank": each.name, **_described(each)} for each in banks]

    def text() -> None:
        for info in infos:
            name, layers = info.pop("bank"), info.pop("layers")
            print_table(list(_flat(info)), name)
            print_table([{"layer": layer, **details} for layer, details in layers.items()])

    show(infos, text)


@add_command("cache verify", "Features", "as_json", "wide")
def cache_verify(
    bank: options.BankName = None,
    deep: Annotated[bool, Doc("Also recompute a sample of rows from their images.")] = False,
    images: Annotated[
        Count,
        Doc("Images of each extraction to recompute with `deep`."),
        Option(needs=("deep",)),
    ] = 16,
    seed: Annotated[Seed, Option(needs=("deep",))] = 0,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Verify every byte of the cache; damaged files are moved to CACHE/quarantine.

    Exits with 1 if anything was damaged: run extract or import again to restore it.
    """
    from bottleneck.cache import verify_cache

    store = _existing(cache)
    banks = None if bank is None else store.find_banks(bank)
    with progress_shown(unit="parts") as progress:
        result = verify_cache(store, banks=banks, progress=progress)
    rows = [asdict(each) for each in result.banks]
    rechecks = _recheck(store, rows, images=images, seed=seed) if deep else []
    damaged = [*result.damage, *(each for found in rechecks for each in found.damage)]
    skipped = {found.bank: found.skipped for found in rechecks}
    content = {"banks": rows, "damage": list(map(asdict, damaged)), "skipped": skipped}
    content["strangers"] = result.strangers
    show(content, lambda: print_table(rows, spare=("bytes",)))
    _note_strangers(result.strangers)
    for each in damaged:
        place = f"moved to {each.moved_to}" if each.moved_to else "left in place"
        note(f"damaged: {each.path} ({each.reason}), {place}")
    if damaged:
        if any(each.moved_to for each in damaged):
            note(f"to restore what was moved, {STORE_AGAIN}")
        sys.exit(1)


def _recheck(
    cache: "bottleneck.Cache", rows: list[dict[str, Any]], **sample: int
) -> "list[Recheck]":
    """Recompute a sample of rows of each bank, and add the result to the bank's row."""
    with loading():
        from bottleneck.extract import recheck_banks

    banks = [cache.named(row["bank"]) for row in rows]
    with progress_shown() as progress:
        rechecks = recheck_banks(cache, banks, progress=progress, **sample)
    for row, found in zip(rows, rechecks, strict=True):
        row |= {"recomputed": found.rows, "difference": found.difference}
        row["damaged"] += len(found.damage)
        if found.skipped:
            note(f"note: some rows of {found.bank} could not be recomputed: {found.skipped}")
    return rechecks


@add_command("cache compact", "Features", "as_json", "wide")
def cache_compact(
    bank: options.BankName = None,
    compress: Annotated[Compression | None, Doc("Compression; by default unchanged.")] = None,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Merge small parts and drop duplicate rows; other commands can use the cache meanwhile."""
    from bottleneck.cache import compact_bank

    store = _existing(cache)
    chosen = store.banks() if bank is None else store.find_banks(bank)
    for each in chosen if bank is None else ():
        if each.is_linked:
            note(f"note: {each.name} is left as it is, because it is elsewhere, behind a link")
    own = [each for each in chosen if bank or not each.is_linked]
    print_table([asdict(compact_bank(each, compress=compress)) for each in own])


@add_command("cache prune", "Features", "as_json", "wide")
def cache_prune(
    model: Annotated[str | None, Doc("Features of this model or bank."), Option(own=True)] = None,
    layer: Annotated[str | None, Doc("Features of this layer or alias."), Option(own=True)] = None,
    older_than: Annotated[
        Age | None,
        Doc("Features that 'extract' has not written or reused for this long: 12h, 30d, 8w."),
    ] = None,
    keep_bytes: Annotated[
        ByteSize | None,
        Doc("The oldest features, until all banks fit in this size: 500MB, 20GB."),
        Option("--keep"),
    ] = None,
    imported: Annotated[
        bool, Doc("Also remove imported arrays, which cannot be computed again.")
    ] = False,
    dry_run: Annotated[bool, Doc("Only list what would be removed.")] = False,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Remove features that meet all given conditions. They can be recomputed."""
    from bottleneck.cache import find_prunable, prune

    store = _existing(cache)
    rule: dict[str, Any] = {"model": model, "layer": layer, "older_than": older_than}
    rule["keep_bytes"] = keep_bytes
    chosen = find_prunable(store, **rule, imported=imported)
    others = () if imported else find_prunable(store, **rule, imported=True)
    kept = dict.fromkeys(each.bank for each in others if each.imported)
    left = [] if dry_run else prune(store, chosen)
    rows = [asdict(each) for each in chosen]
    if not wanted("json"):
        rows = [row | {"layer": row["alias"] or row["layer"]} for row in rows]
    print_table(rows, spare=("alias", "aliases", "model", "linked"))
    _note_removed(chosen, "would be removed" if dry_run else "were removed")
    if kept:
        note(
            f"note: {', '.join(kept)} were kept, as imported features cannot be computed again; "
            f"--imported removes them, too"
        )
    _note_strangers(map(str, left))


@add_command("cache export", "Features")
def cache_export(
    file: Annotated[
        options.OutputFile, Doc("File to write, ending in .h5, .hdf5 or .npz."), ARGUMENT
    ],
    chosen: ExportSettings,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Export the features of an extraction to one plain file, with paths, labels and splits."""
    from bottleneck.exchange import export_features

    store = _existing(cache)
    selection = choices.choose_layer(store, FeatureSettings(**asdict(chosen), views=0))
    _print_exchange(export_features(store, selection, file))


@add_command("cache import", "Features")
def cache_import(
    file: Annotated[Path, Doc("A file that 'cache export' wrote, or a .npy array."), ARGUMENT],
    settings: ImportSettings,
    table: Annotated[
        Path | None,
        Doc("CSV for a .npy array: columns path,label[,split][,digest], a row per array row."),
        Option(needs=("file=*.npy",)),
    ] = None,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Import features: an exported file, or an array made elsewhere."""
    from bottleneck.exchange import import_array, import_features

    store = bottleneck.Cache(cache)
    if file.suffix.lower() == ".npy":
        if table is None:
            raise UsageError(
                f"{str(file)!r} is an array without paths and labels; give `table=CSV` with the "
                f"columns path,label, and `model=NAME`"
            )
        imported = import_array(store, file, table, settings)
    else:
        imported = import_features(store, file, image_set=settings.image_set)
    note_image_set(bottleneck.ImageSet.read_csv(store.set_file(imported.image_set)))
    _print_exchange(imported)


def _existing(cache: Path) -> "bottleneck.Cache":
    if not cache.is_dir():
        raise PathMissingError(f"no cache folder {str(cache)!r}; name it with --cache")
    return bottleneck.Cache(cache)


def _note_removed(chosen: "Iterable[Prunable]", done: str) -> None:
    """Tell how many bytes were removed, and where only links were."""
    note(f"{sum(each.bytes for each in chosen) / 1e6:.1f} MB {done}")
    if links := dict.fromkeys(each.bank for each in chosen if each.linked):
        note(f"note: files of {', '.join(links)} are elsewhere; only links to them {done}")


def _note_strangers(paths: Iterable[str]) -> None:
    """List files and folders that were left alone."""
    if listed := list(paths):
        note(f"note: left alone, as 'bottleneck' did not write it: {some_of(listed)}")


def _print_exchange(exchange: "Exchange") -> None:
    added = "" if exchange.added is None else f"; {exchange.added} added to {exchange.bank}"
    text = (
        f"{exchange.file}: {counted(exchange.images, 'image')} of {exchange.image_set!r}, "
        f"{exchange.model} {exchange.layer}, {' x '.join(map(str, exchange.shape))} "
        f"{exchange.dtype}{added}"
    )
    show(asdict(exchange), lambda: print(text))


def _summary(bank: "Bank") -> dict[str, Any]:
    """Return the row of a bank in the list."""
    info = bank.info
    return {
        "bank": bank.name,
        "model": info.model,
        "weights": info.weights_name,
        "input": info.transform and info.transform.crop,
        "pool": info.pool,
        "computed_in": info.precision.get("compute"),
        "resized": "exactly" if not info.transform or info.transform.exact_resize else "fast",
        "dtype": info.precision["storage"],
        "views": info.policy,
        "layers": ", ".join(
            details.typed or details.alias or layer for layer, details in info.layers.items()
        ),
        "rows": max((len(bank.index(layer)) for layer in info.layers), default=0),
        "parts": len(bank.parts()),
        "megabytes": round(bank.size / 1e6, 3),
    }


def _described(bank: "Bank") -> dict[str, Any]:
    """Return a bank's provenance with the number of rows of each layer, without the canary."""
    info = bank.info.as_dict()
    for layer, details in info["layers"].items():
        del details["canary"]
        details["rows"] = len(bank.index(layer))
    return info


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield {"key": f"{prefix}{key}", "value": value}
