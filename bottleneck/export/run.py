"""Export a head with its base to one file, and check the file before it is reported."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, DataError, UsageError
from bottleneck.export.card import check_card, write_card
from bottleneck.export.preprocessing import FIRST_OPSET, check_transform
from bottleneck.export.samples import image_set_of, read_samples
from bottleneck.extras import import_extra
from bottleneck.files import output_file, sha256_of
from bottleneck.heads import find_head
from bottleneck.heads.bases import bases_of
from bottleneck.heads.files import METADATA_FILE
from bottleneck.records import ShippedRecord, TransformFacts, facts_of, known_source, public_name
from bottleneck.settings import ExportSettings

if TYPE_CHECKING:
    from bottleneck.export.networks import Parts
    from bottleneck.export.samples import Sample
    from bottleneck.images import ImageItem, ImageSet

__all__ = ["Exported", "export_head"]

Progress = Callable[..., None]
_SUFFIXES = (".onnx", ".pt2", ".zip")
_CHECKED, _CALIBRATED, _HELD_OUT = 64, 200, 500
_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": None}
_RESIZED = 1e-2
"""With preprocessing inside, whose resizing is rounded otherwise than Pillow's."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file, and how it was checked.

    Attributes
    ----------
    file : str
        The file.
    bytes : int
        Its size.
    format : str
        ``onnx``, ``pt2`` or ``zip``.
    precision : str
        Precision of the base.
    input : str
        ``pixels`` or ``images``, see `bottleneck.records.ShippedRecord`; ``files`` for a .zip.
    images : int
        Images whose probabilities were compared with those of our own forward in float32.
    difference, tolerance : float, float or None
        The largest difference of a probability, and the one allowed; None for int8.
    clear, same : int
        Images whose class is clear, as their two best probabilities differ by more than twice the
        tolerance, and how many of these get the same class: all, unless it is int8.
    held_out : int
        Test images whose accuracy is told for int8.
    accuracy_before, accuracy_after : float or None
        Their accuracy in float32, and of the file.
    card : str or None
        The model card.
    evaluated : bool
        Whether the card has an evaluation of the head on test images.
    """

    file: str
    bytes: int
    format: str
    precision: str
    input: str
    images: int
    difference: float
    tolerance: float | None
    clear: int
    same: int
    held_out: int = 0
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    card: str | None = None
    evaluated: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the result in JSON types."""
        return asdict(self)


@checked
def export_head(
    head: str | Path,
    file: str | Path,
    settings: ExportSettings | None = None,
    *,
    heads: str | Path = "heads",
    cache: Cache | str | Path = "cache",
    progress: Progress | None = None,
    **options: Any,
) -> Exported:
    """Export a head with its base to one file, from images or pixels to probabilities.

    The file is loaded again in its own runtime, and compared with our forward in float32 on up to
    64 images of the set that the head was fitted on. If that fails, no file is left.

    Parameters
    ----------
    head : str or Path
        Name or folder of the head.
    file : str or Path
        ``.onnx`` for ONNX Runtime; ``.pt2`` for `torch.export.load`; or ``.zip`` for this package
        on another machine. An existing file is replaced.
    settings : ExportSettings, optional
        Settings, or their fields as `options`.
    heads : str or Path
        Folder of the heads.
    cache : Cache, str or Path
        The cache of the head's features, which has its image set.
    progress : callable, optional
        Called with what is being done, the number of images done and their total.
    **options
        Fields of `ExportSettings`, such as ``precision="fp16"``, in place of `settings`.

    Returns
    -------
    Exported

    Raises
    ------
    UsageError
        Another ending, or a setting that the kind of file does not have; the head is on several
        bases, or on imported features; or a model card would replace another README.md.
    UnknownNameError
        There is no such head.
    MissingExtraError
        Packages that the kind of file needs are not installed.
    DataError
        The head does not know its features, its images cannot be read, or the file cannot be
        written.
    WeightsError
        The base is not the one that the head was fitted on.
    ExportError
        The base cannot be exported, or the file does not give the head's answers.
    """
    settings, target = made(ExportSettings, settings, options), Path(file)
    suffix = _check_file(target, settings)
    place, fitted = find_head(heads, head)
    source = known_source(fitted.source)
    if len(groups := bases_of(source)) > 1:
        raise UsageError(
            f"the head is on features of {len(groups)} bases ({source}), and a file holds one; "
            f"export a head on one or several layers of a single base, such as "
            f"{groups[0][0].model}"
        )
    images = image_set_of(source, cache if isinstance(cache, Cache) else Cache(cache))
    from bottleneck.export.networks import load_parts

    parts = load_parts(fitted, settings.weights)
    if settings.with_preprocessing:
        check_transform(parts.base.transform)
    job = _Job(place, parts, settings, images, progress or (lambda *_: None))
    try:
        with output_file(target) as stream:
            stream.write(job.content(suffix))
            stream.flush()
            stream.seek(0)
            content = stream.read()
            found = job.check(suffix, content)
            exported = Exported(file=str(target), bytes=len(content), format=suffix[1:], **found)
            return job.with_card(target, exported) if settings.card else exported
    except BottleneckError:  # some are of the kind below
        raise
    except OSError as error:
        raise DataError(
            f"{str(target)!r} cannot be written ({error.strerror}); check free disk space and "
            f"permissions, or name another file"
        ) from error


def _check_file(target: Path, settings: ExportSettings) -> str:
    """Refuse what can be refused before anything is loaded; return the file's ending."""
    suffix = target.suffix.lower()
    if suffix not in _SUFFIXES:
        ending = f"the ending {suffix!r}" if suffix else "no ending"
        raise UsageError(
            f"{str(target)!r} has {ending}, expected .onnx (ONNX Runtime), .pt2 (PyTorch) or .zip "
            f"(this package on another machine); give one of these"
        )
    if target.is_dir():
        raise UsageError(f"{str(target)!r} is a folder; give the name of a file")
    if settings.card:
        check_card(target)
    if suffix != ".onnx":
        for name in ("with_preprocessing", "precision", "opset"):
            if getattr(settings, name) != getattr(ExportSettings, name):
                raise UsageError(
                    f"`{name}` is for .onnx files, but {str(target)!r} is a {suffix} file; name "
                    f"an .onnx file, or leave `{name}` out"
                )
        return suffix
    if settings.opset < FIRST_OPSET:
        raise UsageError(
            f"`opset` {settings.opset} is too old: PyTorch writes {FIRST_OPSET} or later, which "
            f"antialiased resizing needs, too; give `opset={FIRST_OPSET}`"
        )
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            import_extra(package, "an .onnx file", package, extra="onnx")
    return suffix


@dataclass(frozen=True)
class _Job:
    """What is exported: a head, by its folder, and its images."""

    place: Path
    parts: "Parts"
    settings: ExportSettings
    images: "ImageSet"
    progress: Progress

    def content(self, suffix: str) -> bytes:
        """Return the bytes of the file."""
        if suffix == ".pt2":
            from bottleneck.export.torch_files import made_torch

            return made_torch(self.parts, self._record())
        if suffix == ".zip":
            from bottleneck.export.archive import made_archive

            return made_archive(self.parts, self.place)
        from bottleneck.export.onnx_files import joined, made_onnx, quantised

        model, head = made_onnx(self.parts, self.settings)
        if self.settings.precision == "int8":
            train = [item for item in self.images.items if item.split == "train"]
            model = quantised(model, self._samples("calibrate", _CALIBRATED, train))
        return joined(model, head, self.parts, self._record(), self.settings.opset)

    def check(self, suffix: str, content: bytes) -> dict[str, Any]:
        """Return how the file agrees with our own forward; `ExportError` if it does not."""
        from bottleneck.export import archive, checking

        whole, precision = self.settings.with_preprocessing, self.settings.precision
        loaders: dict[str, Callable[[bytes], checking.Runtime]] = {
            ".onnx": checking.onnx_runtime,
            ".pt2": checking.torch_runtime,
            ".zip": archive.archive_runtime,
        }
        load = loaders[suffix]
        run, tolerance = load(content), _TOLERANCES[precision]
        if whole and tolerance is not None:
            tolerance = _RESIZED
        found = checking.check_agreement(
            self.parts,
            run,
            self._samples("check", _CHECKED, self.images.items),
            whole=whole,
            tolerance=tolerance or 0.0,
        )
        checking.check_answers(found, tolerance, self.settings)
        told: dict[str, Any] = {
            "precision": precision,
            "input": "files" if suffix == ".zip" else "images" if whole else "pixels",
            "images": found.images,
            "difference": found.difference,
            "tolerance": tolerance,
            "clear": found.clear,
            "same": found.same,
        }
        seen = self.parts.head.seen or frozenset()
        test = [
            item
            for item in self.images.items
            if item.split == "test" and item.label and item.digest not in seen
        ]
        if precision == "int8" and test:
            samples = self._samples("evaluate", _HELD_OUT, test)
            held = checking.check_agreement(self.parts, run, samples, whole=whole)
            told |= {
                "held_out": held.labelled,
                "accuracy_before": held.before / held.labelled,
                "accuracy_after": held.after / held.labelled,
            }
        return told

    def with_card(self, target: Path, exported: Exported) -> Exported:
        """Write the model card, and return the result with its path."""
        facts: dict[str, Any] = {
            "place": self.place,
            "preprocessing": self.parts.base.transform.summary,
            "temperature": self.parts.head.temperature,
        }
        try:
            card, evaluated = write_card(target, exported, self._record(), self.images, **facts)
        except OSError as error:
            raise DataError(
                f"the model card beside {str(target)!r} cannot be written ({error.strerror}), so "
                f"no file was; check permissions and free disk space, or leave `card` out"
            ) from error
        return replace(exported, card=str(card), evaluated=evaluated)

    def _samples(self, what: str, most: int, items: "Sequence[ImageItem]") -> "Iterator[Sample]":
        """Yield up to `most` images, and report how many are done."""
        total = min(most, len(items))
        for done, each in enumerate(read_samples(items, self.parts.base.transform, most)):
            self.progress(what, done, total)
            yield each
        self.progress(what, total, total)

    def _record(self) -> ShippedRecord:
        """Return what the file says of itself."""
        head, source = self.parts.head, self.parts.source
        return ShippedRecord(
            classes=head.classes,
            multilabel=head.multilabel,
            thresholds=(0.5,) * len(head.classes) if head.multilabel else (),
            input="images" if self.settings.with_preprocessing else "pixels",
            transform=TransformFacts(**facts_of(self.parts.base.transform, TransformFacts)),
            precision=self.settings.precision,
            head=self.place.name,
            clf=head.clf,
            model=public_name(source.model),
            weights=public_name(source.parts[0].weights),
            layers=tuple(part.layer for part in source.parts),
            pools=tuple(part.pool for part in source.parts),
            image_set=source.image_set,
            fingerprints=tuple(part.fingerprint for part in source.parts),
            head_sha256=sha256_of(self.place / METADATA_FILE),
            version=bottleneck.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
