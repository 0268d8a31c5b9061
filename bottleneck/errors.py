"""The exceptions of this package, each one sentence: what was given, what was expected, what to do.

Every exception is a :class:`BottleneckError` and a builtin exception as well, so that callers may
catch either.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = [
    "STORE_AGAIN",
    "BadImageError",
    "BottleneckError",
    "CacheError",
    "ClusterError",
    "DamagedError",
    "DataError",
    "ExportError",
    "FeatureOverflowError",
    "MemoryShortError",
    "MissingExtraError",
    "OtherVersionError",
    "PathMissingError",
    "PluginError",
    "UnknownNameError",
    "UsageError",
    "WeightsError",
    "WrongTypeError",
    "as_options",
    "counted",
    "did_you_mean",
    "first_line",
    "is_out_of_memory",
    "one_line",
    "reworded",
    "some_of",
    "unquoted",
]

STORE_AGAIN = "run 'bottleneck extract' again, or 'bottleneck cache import' for imported features"
"""What helps wherever it is not known how features came into the cache."""

_OUT_OF_MEMORY = re.compile(
    r"allocate memory"  # PyTorch on the processor, MKL
    r"|can't start new thread"  # whose stack takes 8 MiB
    r"|std::bad_alloc"
    r"|out of memory|ALLOC_FAILED"  # CUDA; cuBLAS and cuDNN
    r"|could not create a (primitive|memory object)$"  # oneDNN
)
"""Messages of libraries when memory runs out.

oneDNN gives no cause. It "could not create a primitive" if it has chosen a kernel and then gets no
memory for the kernel's code. Two other messages are left out: "could not create a primitive
descriptor" means that there is no kernel, and "could not execute a primitive" may mean anything. A
system that forbids code generated at run time, or a bug in oneDNN (pytorch/pytorch#89104), leads to
the same message, so errors about memory quote it.
"""


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Also other ends of lines, directions of writing, and halves of characters."""
_LONG_WORD = re.compile(r"(\S{150})\S{150,}(\S{150})")
_LONGEST = 1600
_LONGEST_TEXT = 10**6


def one_line(text: str) -> str:
    r"""Return a text whose control characters, as names of files may have them, are ``\x1b``.

    Parameters
    ----------
    text : str
        Any text; also its ends of lines are written, as ``\n``.

    Returns
    -------
    str
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class BottleneckError(Exception):
    """Base class of all errors that this package raises on purpose.

    Its text is one line, whatever names of files or values from files it quotes: control characters
    are escaped, and very long words and lists are shortened in the middle.
    """

    def __str__(self) -> str:
        words = _LONG_WORD.sub(r"\1...\2", super().__str__()[:_LONGEST_TEXT])
        text = one_line(words)
        cut = len(text) > _LONGEST
        return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}" if cut else text


class UsageError(BottleneckError, ValueError):
    """An invalid argument."""


class WrongTypeError(UsageError, TypeError):
    """An argument of a wrong type."""


class UnknownNameError(UsageError, LookupError):
    """The name of a model, layer, head or similar that does not exist."""


class PathMissingError(UsageError, FileNotFoundError):
    """A path that does not exist."""


class DataError(BottleneckError, ValueError):
    """Images or labels that are not sufficient for the task."""


class BadImageError(BottleneckError, ValueError):
    """Bytes that cannot be decoded as an image; the message is the reason."""


class WeightsError(BottleneckError, RuntimeError):
    """Weights that are not available, or that do not fit the model."""


class CacheError(BottleneckError, OSError):
    """A cache that cannot be read or written, or is not intact."""


class DamagedError(CacheError):
    """A file of the cache that has been damaged or changed.

    Parameters
    ----------
    path : object
        The file.
    reason : str
        Description of the damage.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{str(path)!r} is damaged ({reason}); run 'bottleneck cache verify' to move it away, "
            f"then {STORE_AGAIN}"
        )

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[object, str]]:
        """Make it picklable, for other processes."""
        return type(self), (self.path, self.reason)


class OtherVersionError(CacheError):
    """A record of the cache from another version of this package."""


class ClusterError(BottleneckError, RuntimeError):
    """A cluster that does not answer, or whose workers fail."""


class ExportError(BottleneckError, RuntimeError):
    """A network that cannot be exported, or a file that does not give the head's answers."""


class FeatureOverflowError(BottleneckError, OverflowError):
    """A layer whose activations cannot be stored as finite numbers."""


class MemoryShortError(BottleneckError, MemoryError):
    """A computation that does not fit into memory, even with small batches."""


class MissingExtraError(BottleneckError, ImportError):
    """A missing package that an extra installs."""


class PluginError(BottleneckError, ImportError):
    """A package that provides a model but does not meet the interface."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to `name`, or ``""``.

    Parameters
    ----------
    name : str
        The unknown name.
    known : iterable of str
        The known names.

    Returns
    -------
    str
    """
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number and what is counted, as in ``1 image`` or ``3 images``.

    Parameters
    ----------
    number : int
        How many there are.
    one : str
        What follows the number 1, such as ``class`` or ``image is``.
    many : str
        What follows other numbers; by default `one` with the plural's ending.

    Returns
    -------
    str
    """
    return f"{number} {one if number == 1 else many or one + ('es' if one[-1] == 's' else 's')}"


def some_of(names: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    """Return the first names as text, and the number of the others.

    Parameters
    ----------
    names : iterable of str
        All names.
    separator : str
        Text between two names.
    most : int
        Maximum number of names.

    Returns
    -------
    str
    """
    first, others = list(names)[:most], list(names)[most:]
    return separator.join([*first, f"{len(others)} more"] if others else first)


def as_options(error: BaseException | str) -> str:
    """Return an error's message with options of the command line in place of parameters.

    Parameters
    ----------
    error : BaseException or str
        The error, or its message.

    Returns
    -------
    str
    """

    def option(found: re.Match[str]) -> str:
        return " ".join(filter(None, ("--" + found[1].replace("_", "-"), found[2])))

    return re.sub(r"`(\w+)(?:=([^`]*))?`", option, str(error))


def unquoted(error: BaseException) -> str:
    """Return an error's message without the backticks around names of parameters.

    Parameters
    ----------
    error : BaseException
        The error.

    Returns
    -------
    str
    """
    return str(error).replace("`", "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for use in another message.

    Parameters
    ----------
    error : BaseException
        An error.

    Returns
    -------
    str
        The first line of its message, or its class's name if it has none.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # not its repr
    return str(text).partition("\n")[0] or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, PyTorch or its libraries means that memory ran out.

    Code that turns any error into a message about images, weights or settings must let these pass.
    This function does not import torch.

    Parameters
    ----------
    error : BaseException
        An error.

    Returns
    -------
    bool
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def reworded(say: Callable[[Exception], BottleneckError]) -> Iterator[None]:
    """Turn the errors of other packages into one of ours, except when memory runs out.

    Parameters
    ----------
    say : callable
        Takes the error and returns the one to raise.

    Yields
    ------
    None

    Raises
    ------
    BottleneckError
        The result of `say`, or an error of ours, unchanged.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BottleneckError) or is_out_of_memory(error):
            raise
        raise say(error) from error
