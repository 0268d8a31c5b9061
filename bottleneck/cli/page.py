"""The command that makes a page of images, heads and what to do next: report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, progress_shown, show
from bottleneck.cli.streams import note, note_list
from bottleneck.errors import counted
from bottleneck.fields import Option
from bottleneck.settings import ReportSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bottleneck.report import Report

__all__ = ["check_page", "fill_finetuned", "report", "write_page"]


@add_command("report", "Judge")
def report(
    settings: ReportSettings,
    folders: options.Folders,
    head_names: Annotated[
        tuple[str, ...],
        Doc("Head by name or folder; may repeat, to compare heads. By default the newest."),
        Option("--head", metavar="NAME"),
    ] = (),
    output: Annotated[
        Path | None, Doc("File to write, or folder with --all; by default report.html.")
    ] = None,
    form: Annotated[
        Literal["html", "md", "json"] | None,
        Doc("Form of the file; by default by its ending."),
        Option("--format", unless=("everything",)),
    ] = None,
    log: options.Log = Path("experiments.sqlite"),
    memory: options.Memory = None,
    open_it: Annotated[bool, Doc("Open the page in a browser."), Option("--open")] = False,
) -> Any:
    """Make a page of images, heads and what to do next, which needs no network.

    It shows the data, what heads get wrong, a map of the features, the last advice, and where all
    of it came from. Heads are scored, and fitted on folds to find suspects; thumbnails are kept.
    """
    from bottleneck.report import check_report_file, form_of

    name = "report" if settings.everything else f"report.{form or 'html'}"
    file = check_report_file(output or name, folder=settings.everything)
    chosen = "folder" if settings.everything else form_of(file, form)
    heads = {} if settings.image_set else _chosen_heads(folders.heads, head_names)
    made, page = write_page(heads, settings, folders, file, form=chosen, log=log, memory=memory)
    _show(made, page)
    if open_it:
        _open(page)
    return made


def _chosen_heads(folder: Path, names: tuple[str, ...]) -> "dict[str, bottleneck.Head]":
    """Load heads by name; without names the newest, if there is any."""
    from bottleneck.heads import head_names

    if not names and not head_names(folder):
        return {}
    return {name: head for name, (_, head) in choices.choose_heads(folder, names).items()}


def check_page(file: Path | None) -> None:
    """Reject a report that cannot be written, before anything is computed.

    Parameters
    ----------
    file : Path or None
        None if no report was requested.

    Raises
    ------
    UsageError
        See `bottleneck.report.form_of` and `bottleneck.report.check_report_file`.
    """
    if file:
        from bottleneck.report import check_report_file, form_of

        form_of(file)
        check_report_file(file)


def write_page(
    heads: "Mapping[str, bottleneck.Head]",
    settings: ReportSettings,
    folders: options.Folders,
    file: Path,
    *,
    form: str | None = None,
    log: Path = Path("experiments.sqlite"),
    memory: int | None = None,
) -> "tuple[Report, Path]":
    """Make a report and write it; note what it lacks.

    Parameters
    ----------
    heads : mapping of str to Head
        Heads by name.
    settings : ReportSettings
        What it shows.
    folders : Folders
        Folders of the cache and of heads.
    file : Path
        The file, or the folder.
    form : str, optional
        As for `bottleneck.report.write_report`.
    log : Path
        The log of experiments, which need not exist.
    memory : int, optional
        Memory limit in bytes for features.

    Returns
    -------
    (Report, Path)
        The report, and what to open.
    """
    store, limit = bottleneck.Cache(folders.cache), options.memory_of(memory)
    for head in heads.values():
        fill_finetuned(head, store, settings.split)
    with loading():
        from bottleneck.report import make_report, write_report
    places: dict[str, Any] = {"heads_folder": folders.heads, "log": log, "memory": limit}
    with progress_shown() as progress:
        made = make_report(store, heads, settings, progress=progress, **places)
    page = write_report(made, file, form)
    if made.notes:
        note_list("note: the report says what is missing:", made.notes)
    return made, page


def _show(made: "Report", page: Path) -> None:
    """Print where a report is, and how much it has."""
    shown, size = len(made.images), page.stat().st_size
    facts = {
        "file": str(page),
        "image_set": made.summary.image_set,
        "heads": [each.name for each in made.heads],
        "images": made.summary.images,
        "shown": shown,
        "bytes": size,
        "notes": made.notes,
    }
    some = f"{shown} of {counted(made.summary.images, 'image')}"
    show(facts, lambda: print(f"report on {some} written to {page} ({size / 1e6:.1f} MB)"))


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        note(f"note: no browser could be started; open {page} yourself")


def fill_finetuned(head: "bottleneck.Head", cache: "bottleneck.Cache", split: str) -> None:
    """Compute the features of a split that the cache lacks, if a head's base was fine-tuned.

    Parameters
    ----------
    head : Head
        The head.
    cache : Cache
        The cache.
    split : str
        The split.
    """
    from bottleneck.bases import is_finetuned
    from bottleneck.records import known_source

    source = known_source(head.source)
    if len(source.parts) == 1 and is_finetuned(source.model):
        with loading():
            from bottleneck.finetune import fill_split
        with progress_shown() as progress:
            fill_split(head, cache, split, progress=progress)
