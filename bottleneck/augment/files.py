"""Policies by name, and from YAML files."""

import json
from pathlib import Path
from typing import Any

from bottleneck.augment.policies import POLICIES, STEPS, Policy, Step
from bottleneck.errors import (
    PathMissingError,
    UnknownNameError,
    UsageError,
    did_you_mean,
    first_line,
)

__all__ = ["find_policy"]

_FILE_TYPES = {".yaml", ".yml"}
_TRIAL_SIZE = (96, 80)
_TRIAL_WHOLE = (128, 112)


def find_policy(name: str) -> Policy:
    """Return a policy by its name, or read it from a YAML file, and try it on a small image.

    Parameters
    ----------
    name : str
        One of `POLICIES`, or the path of a ``.yaml`` or ``.yml`` file: a list of
        ``- ClassName: {argument: value}``.

    Raises
    ------
    UnknownNameError
        There is no such policy, or no such class.
    PathMissingError
        There is no such file.
    UsageError
        The file is not such a list, or a class cannot be used with these arguments.
    """
    path = Path(name)
    if path.suffix in _FILE_TYPES:
        policy = Policy(path.stem, _read_steps(path))
    elif name in STEPS:
        policy = Policy(name, STEPS[name])
    else:
        raise UnknownNameError(
            f"no augmentation {name!r}{did_you_mean(name, POLICIES)}; expected one of "
            f"{', '.join(POLICIES)}, or the path of a .yaml file"
        )
    _try(policy)
    return policy


def _read_steps(path: Path) -> tuple[Step, ...]:
    import yaml

    try:
        found = yaml.safe_load(path.read_bytes())
        json.dumps(found, allow_nan=False)
    except FileNotFoundError:
        raise PathMissingError(
            f"no file {str(path)!r}; name an augmentation or the path of a .yaml file"
        ) from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} is not a list of augmentation steps ({first_line(error)}); write one "
            f"'- ClassName: {{argument: value}}' for each"
        ) from error
    return _checked_steps(path, found)


def _checked_steps(path: Path, found: Any) -> tuple[Step, ...]:
    """Return the steps that YAML holds if each names a class and its arguments."""
    if not isinstance(found, list) or not found:
        raise UsageError(
            f"{str(path)!r} holds {found!r:.60}, not a list of augmentation steps; write one "
            f"'- ClassName: {{argument: value}}' for each"
        )
    steps = []
    for each in found:
        step = {each: {}} if isinstance(each, str) else each
        if not isinstance(step, dict) or len(step) != 1:
            raise UsageError(
                f"{str(path)!r} has the step {each!r:.60}; expected '- ClassName: {{argument: "
                f"value}}'"
            )
        ((name, arguments),) = step.items()
        steps.append((str(name), _checked_arguments(path, str(name), arguments or {})))
    return tuple(steps)


def _checked_arguments(path: Path, name: str, arguments: Any) -> dict[str, Any]:
    from torchvision.transforms import v2

    from bottleneck.augment.pipelines import OWN

    kinds = {each: getattr(v2, each) for each in dir(v2)}
    theirs = (each for each, kind in kinds.items() if isinstance(kind, type))
    known = [*OWN, *(each for each in theirs if issubclass(kinds[each], v2.Transform))]
    if name not in known:
        raise UnknownNameError(
            f"{str(path)!r} names {name!r}{did_you_mean(name, known)}; expected a class of "
            f"torchvision.transforms.v2"
        )
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise UsageError(
            f"{str(path)!r} gives {name} {arguments!r:.60}; expected its arguments by name, as "
            f"{{argument: value}}"
        )
    if "size" in arguments:
        raise UsageError(
            f"{str(path)!r} gives {name} a size; leave it out, for views have the size that the "
            f"base takes"
        )
    if "transforms" in arguments:
        inner = _checked_steps(path, arguments["transforms"])
        return arguments | {"transforms": [{key: given} for key, given in inner]}
    return arguments


def _try(policy: Policy) -> None:
    """Make two small views, and the first again: it must come out the same."""
    import torch

    high, wide = _TRIAL_WHOLE if policy.whole else _TRIAL_SIZE
    pixels = (torch.arange(3 * high * wide) * 7 % 256).to(torch.uint8).reshape(3, high, wide)
    views = [policy.augment(pixels, "", view, _TRIAL_SIZE) for view in (1, 2, 1)]
    if not torch.equal(views[0], views[2]):
        raise UsageError(
            f"augmentation {policy.name!r} gives another view each time; use steps that draw from "
            f"torch's generator"
        )
