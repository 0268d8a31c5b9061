"""A pass over images: what all bases compute of them at once, here or where an engine does."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing

from bottleneck.extract.compute import Chunk, Work, joint_batches, sorted_by_size
from bottleneck.extract.outcomes import Part
from bottleneck.extract.plan import images_of
from bottleneck.images import ImageItem

__all__ = ["Engine", "ordered_images", "stored_chunks"]


class Engine:
    """Computes images in this process; subclasses do so elsewhere.

    Attributes
    ----------
    at_once : bool
        Whether it is given all images of a pass at once, rather than some at a time.
    lost : set of str
        Digests of images that were given to others which have been lost; some may be stored.
    """

    at_once = False

    def __init__(self) -> None:
        self.lost: set[str] = set()

    def chunks(
        self,
        parts: Sequence[Part],
        items: Sequence[ImageItem],
        claimed: Iterable[ImageItem] | None = None,
    ) -> Generator[Chunk]:
        """Compute images together and store them, see `stored_chunks`.

        Parameters
        ----------
        parts, items, claimed
            As for `stored_chunks`.

        Yields
        ------
        Chunk
            At least the number of images.
        """
        yield from stored_chunks(parts, items, claimed)


def ordered_images(parts: Sequence[Part]) -> Sequence[ImageItem]:
    """Return the images that are computed together, in the order of computation.

    Parameters
    ----------
    parts : sequence of Part
        As for `stored_chunks`.

    Returns
    -------
    sequence of ImageItem
    """
    tasks = [part.task for part in parts]
    return sorted_by_size(images_of(tasks), parts[0].target.base.transform)


def stored_chunks(
    parts: Sequence[Part], items: Sequence[ImageItem], claimed: Iterable[ImageItem] | None = None
) -> Generator[Chunk]:
    """Compute images together, and yield what was computed of some once it is appended.

    Parameters
    ----------
    parts : sequence of Part
        What to compute and where to store it, for at least one base; images are decoded as
        `bottleneck.extract.plan.find_passes` allows. Their outcomes are updated.
    items : sequence of ImageItem
        The images of all parts, in the order of computation.
    claimed : iterable of ImageItem, optional
        Those to compute, by default all; read when they are next.

    Yields
    ------
    Chunk
        See `joint_batches`.

    Raises
    ------
    CacheError, FeatureOverflowError, MemoryShortError
        Features cannot be computed or written.
    """
    works = [
        Work(part.target.base.cut(part.task.layers), part.task.views, part.outcome.remarks)
        for part in parts
    ]
    size, policy = parts[0].target.settings.batch_size, parts[0].target.policy
    chunks = joint_batches(works, items, claimed, batch_size=size, policy=policy)
    share = sum(len(part.target.by_bank(part.task.layers)) for part in parts)
    with closing(chunks), ExitStack() as stack:
        stores = [
            stack.enter_context(part.target.storing(part.task.layers, share=share))
            for part in parts
        ]
        for chunk in chunks:
            for part, append, batch in zip(parts, stores, chunk.batches, strict=True):
                append(batch)
                outcome, width = part.outcome, sum(map(part.target.row_bytes, part.task.layers))
                outcome.bad |= {item.digest: reason for item, reason in batch.rejected}
                outcome.rows += len(batch.items)
                outcome.bytes_written += len(batch.items) * width
                outcome.seconds += batch.seconds
            yield chunk
