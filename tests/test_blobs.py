"""Blocks of files that can only be read forward. Less than 1 s."""

from collections.abc import Iterator

from bottleneck.sources import blobs
from bottleneck.sources.blobs import Forward


def reader(begun: list[int], size: int = 10) -> Forward[bytes]:
    """Ten blocks, read from the beginning; notes where reading begins."""

    def begin(_: int) -> tuple[int, Iterator[bytes]]:
        return 0, blocks()

    def blocks() -> Iterator[bytes]:
        begun.append(0)
        for number in range(10):
            yield bytes([number]) * size

    return Forward(begin, len)


def test_blocks_are_read_once_and_those_behind_again(monkeypatch):
    monkeypatch.setattr(blobs, "_KEPT", 30)
    begun: list[int] = []
    found = reader(begun)
    for number in (0, 1, 2, 5, 4, 9):
        assert found.block(number) == bytes([number]) * 10
    assert found.block(10) is None
    assert begun == [0]
    assert found.block(1) == bytes([1]) * 10
    assert begun == [0, 0]


def test_only_the_files_that_were_read_last_keep_blocks():
    """However many files there are, and each is read on where it is read again."""
    begun: list[int] = []
    many = [reader(begun) for _ in range(3 * blobs._AT_A_TIME)]
    for each in many:
        assert each.block(3) == b"\3" * 10
    assert sum(bool(each._blocks) for each in many) <= blobs._AT_A_TIME
    known = len(begun)
    for each in many[-blobs._AT_A_TIME :]:
        assert each.block(3) == b"\3" * 10
    assert len(begun) == known
    assert many[0].block(4) == b"\4" * 10
    assert len(begun) == known + 1
