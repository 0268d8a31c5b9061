"""The command that puts a head and its base into one file: export."""

from typing import Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, progress_shown, show
from bottleneck.cli.streams import note
from bottleneck.errors import counted
from bottleneck.fields import ARGUMENT

__all__ = ["export"]


@add_command("export", "Ship")
def export(
    head: Annotated[str, Doc("Head by name or folder."), ARGUMENT],
    file: Annotated[options.OutputFile, Doc("File to write: .onnx, .pt2 or .zip."), ARGUMENT],
    settings: bottleneck.ExportSettings,
    folders: options.Folders,
) -> Any:
    """Put a head and its base into one file, from images to probabilities.

    .onnx is for ONNX Runtime, .pt2 for torch.export.load, and .zip for this package on another
    machine. The file is loaded again and compared with the head on up to 64 of its images before
    it is reported; if their probabilities differ, no file is left.
    """
    with loading():
        from bottleneck.export import export_head
    with progress_shown(unit="images") as progress:
        found = export_head(
            head, file, settings, heads=folders.heads, cache=folders.cache, progress=progress
        )
    show(found.as_dict(), lambda: _print_exported(found))
    return found


def _print_exported(found: "bottleneck.export.Exported") -> None:
    size = f"{found.bytes / 1e6:.1f} MB"
    print(f"{found.file}: {found.format}, {found.precision}, from {found.input}, {size}")
    allowed, clear = f", allowed {found.tolerance:g}", " that are clear"
    if found.tolerance is None:
        allowed = clear = ""
    print(
        f"checked on {counted(found.images, 'image')}: probabilities differ by at most "
        f"{found.difference:.1g}{allowed}; the same class for {found.same} of {found.clear}{clear}"
    )
    if found.accuracy_before is not None and found.accuracy_after is not None:
        print(
            f"accuracy on {counted(found.held_out, 'test image')}: {found.accuracy_before:.4f} in "
            f"fp32, {found.accuracy_after:.4f} in {found.precision}"
        )
    if found.card:
        print(f"model card: {found.card}")
        if not found.evaluated:
            note(
                "the card has no accuracy on test images, as no evaluation of the head is known; "
                "run 'bottleneck evaluate', then export again"
            )
