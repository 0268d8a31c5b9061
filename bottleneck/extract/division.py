"""Divide images among the extractions that fill the same banks at the same time.

Each process leases the next images of its plan that are neither in the banks nor leased by another
process, computes them, and leases the next ones. Before each lease it looks into the parts that
were added, its own and others': a row that is there is not computed again, and its image no longer
needs a lease.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice

from bottleneck.cache.leases import Leases, lease_name
from bottleneck.cache.own import added_parts
from bottleneck.cache.parts import Part as StoredPart
from bottleneck.extract.outcomes import Part
from bottleneck.images import ImageItem

__all__ = ["Division"]

_LEASE_SECONDS = 30.0
"""A lease is for about as many images as take this long, so that a slow process delays no other."""
_FIRST = 64
"""Images of the first lease; doubled until it is known how fast images are computed."""
_LEAST = 16
_SHARES = 2
"""A lease is for at most this part of an equal share of the images that are left."""
_DIGEST_LETTERS = 64
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Division:
    """The images that are computed together, of which this process takes some.

    Parameters
    ----------
    leases : Leases
        Leases of this process in the cache.
    parts : sequence of Part
        What each base computes and where it is stored; `elsewhere` of their outcomes is updated.
    items : sequence of ImageItem
        The images of all parts, in the order of computation.
    report : callable
        Called while the process waits for others.
    at_once : bool
        Whether to lease all images that are free, for others to compute them for this process.

    Attributes
    ----------
    computed : int
        Number of images that this process has computed, for the user to count.
    elsewhere : int
        Number of images that other processes have computed.
    """

    def __init__(
        self,
        leases: Leases,
        parts: Sequence[Part],
        items: Sequence[ImageItem],
        report: Callable[[], None],
        *,
        at_once: bool = False,
    ) -> None:
        self._leases, self._parts, self._report = leases, parts, report
        self._at_once = at_once
        self._of_digest = {item.digest: item for item in items}
        self._number_rows()
        self._pending = {digest: self._needed(digest) for digest in self._of_digest}
        self._held: dict[str, int] = {}
        self._next: list[str] = []
        self._limit, self._seconds = _FIRST, 0.0
        self._since: float | None = None
        self.computed = self.elsewhere = 0
        self._in_company = False

    def _number_rows(self) -> None:
        """Give each layer of each bank a number, and note which parts the plan has seen."""
        self._layers: dict[str, dict[str, int]] = {}
        self._seen: dict[str, set[str]] = {}
        self._paths = {}
        count = 0
        for part in self._parts:
            for layer in part.task.layers:
                bank = part.target.banks[layer]
                self._layers.setdefault(bank.name, {})[layer] = count
                opened = {path.name for path in bank.opened}
                self._seen[bank.name] = self._seen.get(bank.name, opened) & opened
                self._paths[bank.name] = bank.path
                count += 1
        self._count = count
        self._masks: dict[tuple[object, ...], int] = {}

    def _needed(self, digest: str) -> int:
        """Return the rows that the plan lacks of an image, each as a bit."""
        views = tuple(part.task.views.get(digest, ()) for part in self._parts)
        if views not in self._masks:
            self._masks[views] = sum(
                self._bits(part.target.banks[layer].name, [layer], view)
                for part, own in zip(self._parts, views, strict=True)
                for layer in part.task.layers
                for view in own
            )
        return self._masks[views]

    def _bits(self, bank: str, layers: Collection[str], view: int) -> int:
        """Return the bits of some layers' rows of a view, as far as they are planned."""
        numbers = [number for layer, number in self._layers[bank].items() if layer in layers]
        return sum(1 << number for number in numbers) << view * self._count

    @property
    def left(self) -> set[str]:
        """Digests of images of which others have computed some rows only."""
        return set(self._pending)

    def ready(self) -> bool:
        """Wait until there are images to compute, while others have leased all that are left.

        Returns
        -------
        bool
            Whether there are any; they are the next ones of `claimed`.

        Raises
        ------
        CacheError
            A part cannot be read, or the lease cannot be written.
        """
        self._stop_the_clock()
        self._leases.drop()  # all parts are written
        self._held, pause = {}, _PAUSE
        while self._pending:
            taken = self._taken(self._leases.others(self._layers))
            if next(self._free(taken), None):
                self._take()
                if self._next:
                    return True
            elif taken.isdisjoint(map(lease_name, self._pending)):
                break
            self._report()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._leases.drop()
        return False

    def claimed(self) -> Iterator[ImageItem]:
        """Yield the images that this process computes, after `ready` and until none is free.

        Yields
        ------
        ImageItem
            In the order of computation.

        Raises
        ------
        CacheError
            As for `ready`.
        """
        while self._next:
            for digest in self._next:
                yield self._of_digest[digest]
            self._take()

    def _take(self) -> None:
        self._stop_the_clock()
        self._next = []
        self._leases.take(self._layers, self._choose)
        if self._next:
            self._since = time.monotonic()

    def _stop_the_clock(self) -> None:
        """Count the time since the last lease as computing; waiting would make leases smaller.

        Who waits would then ask more often, for others to wait longer.
        """
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None

    def _choose(self, others: Sequence[Collection[str]]) -> list[str]:
        """Choose the next images, given those that others have leased."""
        taken = self._taken(others)
        bad = [part.outcome.bad for part in self._parts]
        self._held = {
            digest: rows
            for digest, rows in self._held.items()
            if not any(digest in each for each in bad)
        }
        size = self._size(max(0, len(self._pending) - len(taken)), 1 + len(others))
        self._next = list(islice(self._free(taken), size))
        self._held |= {digest: self._pending.pop(digest) for digest in self._next}
        return list(self._held)

    def _taken(self, others: Sequence[Collection[str]]) -> set[str]:
        """Return the images that others compute, after a look at what they have computed."""
        self._in_company |= bool(others)
        self._note_parts()  # after the leases were read: those that have ended are in parts
        return set[str]().union(*others)

    def _free(self, taken: Collection[str]) -> Iterator[str]:
        """Yield the images that nobody computes, unless some of their rows are there by now."""
        for digest, rows in self._pending.items():
            if lease_name(digest) not in taken and rows == self._needed(digest):
                yield digest

    def _size(self, free: int, processes: int) -> int:
        """Return how many images to lease: fewer and fewer, so that all processes end together.

        As in guided self-scheduling (Polychronopoulos and Kuck, 1987).
        """
        if self._at_once:
            return len(self._pending)
        if self.computed and self._seconds:
            limit = int(self.computed / self._seconds * _LEASE_SECONDS)
        else:
            limit, self._limit = self._limit, 2 * self._limit
        return max(_LEAST, min(limit, -(-free // (_SHARES * processes))))

    def _note_parts(self) -> None:
        """Strike out the rows of parts that were added, and count what others have computed."""
        for bank, path in self._paths.items():
            for part in added_parts(path, self._seen[bank], elsewhere=self._in_company):
                self._strike(bank, part)

    def _strike(self, bank: str, part: StoredPart) -> None:
        if not (bits := self._bits(bank, part.layers, 0)):
            return
        digits = part.digests.tobytes().hex()
        for row, view in enumerate(part.views.tolist()):
            digest = digits[row * _DIGEST_LETTERS : (row + 1) * _DIGEST_LETTERS]
            for images in (self._pending, self._held):
                if digest not in images:
                    continue
                images[digest] &= ~(bits << view * self._count)
                if not images[digest]:
                    del images[digest]
                    if images is self._pending:
                        self._note_elsewhere(digest)

    def _note_elsewhere(self, digest: str) -> None:
        self.elsewhere += 1
        for part in self._parts:
            if digest in part.task.views:
                part.outcome.elsewhere.add(digest)
