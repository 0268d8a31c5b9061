"""The command that shows similar images: similar."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.labels import ListFiles, write_files
from bottleneck.cli.output import loading, print_table, progress_shown, show, wanted
from bottleneck.cli.outputs import read_images
from bottleneck.cli.streams import note
from bottleneck.cli.summary import note_image_set
from bottleneck.errors import counted
from bottleneck.fields import ARGUMENT
from bottleneck.settings import FitFeatures, LookupSettings, SimilarFeatures
from bottleneck.settings.values import Count

if TYPE_CHECKING:
    from bottleneck.images import ImageItem
    from bottleneck.similar import Similar

__all__ = ["similar"]

_T = TypeVar("_T")
_COLUMNS = ("path", "label", "split", "cosine")


@add_command("similar", "Judge", "as_json", "as_csv", "wide")
def similar(
    images: Annotated[tuple[Path, ...], Doc("Image files, folders or CSV tables."), ARGUMENT],
    chosen: SimilarFeatures,
    settings: LookupSettings,
    files: ListFiles,
    top: Annotated[Count, Doc("Number of similar images to find for each image.")] = 20,
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
) -> None:
    """Find the images of a set that are most similar to others, by the cosine of features.

    An image that is in the set itself is left out. Exits with 1 if images could not be used.
    """
    from bottleneck.lookup import feature_rows
    from bottleneck.similar import similar_images

    store = bottleneck.Cache(cache)
    source = choices.choose_joined(store, FitFeatures(**asdict(chosen), views=0))
    queries = read_images(images, settings.max_bytes, **files.written)
    notes.note_random(source.weights_random)
    note_image_set(queries)
    with loading():
        own = feature_rows(source, queries, settings, cache=store)
    features = bottleneck.load_features(store, source, memory=options.memory_of(memory))
    with progress_shown() as progress:
        own = _reported(own, len(queries.items), progress)
        found, rejected = similar_images(features, queries, own, top, progress=progress)
    content = {"image_set": source.image_set, "model": source.model, "layer": source.layer_name}
    lists = {"similar": [each.as_dict() for each in found], "rejected": [*map(asdict, rejected)]}
    rows, groups = _listed(found)
    if wanted("csv"):
        print_table(rows, spreadsheet_safe=files.spreadsheet_safe)
    else:
        show({**content, "pool": source.pool, **lists}, lambda: _print_similar(found, str(source)))
    write_files(files, ("image", "rank", *_COLUMNS), rows, groups, store)
    notes.note_rejected(rejected)
    if rejected:
        sys.exit(1)


def _reported(rows: Iterable[_T], total: int, progress: Callable[..., None]) -> Iterator[_T]:
    for done, row in enumerate(rows, 1):
        yield row
        progress("features", done, total)


def _print_similar(found: "Sequence[Similar]", source: str) -> None:
    """Print a table for each image, and which of them are in the set themselves."""
    for each in found:
        rows = [neighbour.as_dict() for neighbour in each.neighbours]
        shown = [name for name in _COLUMNS if any(row[name] is not None for row in rows)]
        rows = [{name: row[name] for name in shown} for row in rows]
        if rows:
            print_table(rows, f"{each.item.path}: most similar by {source}", spare=("split",))
        else:
            print(f"{each.item.path}: no other image in the set")
    if known := sum(each.itself > 0 for each in found):
        note(f"note: {counted(known, 'image')} left out of the own list, being in the set itself")


def _listed(
    found: "Sequence[Similar]",
) -> tuple[list[dict[str, Any]], "list[list[tuple[ImageItem, str]]]"]:
    """Return the rows of a table, and each image in a group with those that are similar to it."""
    rows, groups = [], []
    for each in found:
        groups.append([(each.item, "the image itself")])
        for rank, neighbour in enumerate(each.neighbours, 1):
            rows.append({"image": each.item.path, "rank": rank, **neighbour.as_dict()})
            groups[-1].append((neighbour.item, f"{neighbour.cosine:.3f}"))
    return rows, groups
