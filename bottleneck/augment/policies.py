"""Augmentation policies: views of an image that depend only on its digest and their number."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bottleneck.errors import UnknownNameError, UsageError, did_you_mean, first_line, reworded
from bottleneck.inputs import read_regular
from bottleneck.settings.values import check_augmentation

if TYPE_CHECKING:
    import torch

__all__ = ["POLICIES", "Policy", "find_policy"]

_SCHEME = 1
"""Increased when the seeds of views or the results of our own classes change."""

_Step = tuple[str, Mapping[str, Any]]
_FLIP: _Step = ("RandomHorizontalFlip", {"p": 0.5})
_GREY = [124, 116, 104]
"""The mean of ImageNet's pixels, which most transforms map to about zero."""
_STEPS: dict[str, tuple[_Step, ...]] = {
    "none": (),
    "flip": (_FLIP,),
    "standard": (("EdgeAffine", {"degrees": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2}), _FLIP),
    "crop": (("RandomResizedCrop", {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}), _FLIP),
    "color": (
        ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    ),
    "noise": (("GaussianNoise", {"sigma": 0.1}),),
    "elastic": (("EdgeElastic", {"shift": 0.016, "smooth": 0.08}),),
    "trivial": (("TrivialAugmentWide", {}),),
    "rand": (("RandAugment", {}),),
    "flips": (_FLIP, ("RandomVerticalFlip", {"p": 0.5})),
    "erase": (_FLIP, ("RandomErasing", {"p": 0.5, "value": _GREY})),
}
POLICIES = tuple(_STEPS)
_FORM = "expected one '- ClassName: {argument: value}' for each step"
_TRIAL_SIZE = (96, 80)
_MOST_BYTES = 100_000
_DEEPEST = 100


@dataclass(frozen=True)
class Policy:
    """An augmentation policy.

    Attributes
    ----------
    name : str
        One of `POLICIES`, or the name of its YAML file.
    steps : tuple of (str, mapping)
        Applied in order: a class of ``torchvision.transforms.v2``, or `EdgeAffine` or
        `EdgeElastic`, and its arguments. A class that needs a ``size`` gets the base's input size.
    """

    name: str
    steps: tuple[_Step, ...]

    @classmethod
    def from_dict(cls, name: str, content: Mapping[str, Any]) -> Self:
        """Build the policy from its `as_dict`.

        Parameters
        ----------
        name : str
            Name of the policy.
        content : mapping of str to Any
            A result of `as_dict`.

        Returns
        -------
        Policy

        Raises
        ------
        KeyError
            The content has no ``steps``.
        """
        return cls(name, tuple(pair for step in content["steps"] for pair in step.items()))

    @property
    def whole(self) -> bool:
        """Whether it needs the whole decoded image rather than the preprocessed pixels."""
        return bool(self.steps) and self.steps[0][0] == "RandomResizedCrop"

    def as_dict(self) -> dict[str, Any]:
        """Return everything that affects the pixels, in JSON types; the name does not."""
        steps = [{name: dict(arguments)} for name, arguments in self.steps]
        return {"scheme": _SCHEME, "steps": json.loads(json.dumps(steps, allow_nan=False))}

    def augment(
        self, pixels: "torch.Tensor", digest: str, view: int, size: tuple[int, int]
    ) -> "torch.Tensor":
        """Return one view of an image; the same arguments always give the same pixels.

        It is thread-safe: torch's global generator is not used.

        Parameters
        ----------
        pixels : torch.Tensor
            uint8 of shape (3, h, w): the decoded image of any size if `whole`, else the
            preprocessed image of shape `size`.
        digest : str
            SHA-256 of the image file.
        view : int
            Number of the view, from 1 on; view 0 is the unaugmented image.
        size : (int, int)
            Height and width of the base's input.

        Returns
        -------
        torch.Tensor
            uint8 of shape (3, height, width), where height and width are those of `size`.

        Raises
        ------
        UsageError
            A class does not accept its arguments, a step fails, or the result has another type or
            size.
        """
        import torch

        from bottleneck.augment.pipelines import Seeded, make_pipeline

        text = json.dumps(self.as_dict(), sort_keys=True)
        with _refused(f"augmentation {self.name!r} cannot be made"):
            pipeline = make_pipeline(text, tuple(size))
        seed = hashlib.sha256(f"{digest} {view} {text}".encode()).digest()
        found: Any = pixels
        with Seeded(int.from_bytes(seed[:8], "big") >> 1):
            for (name, _), step in zip(self.steps, pipeline, strict=True):
                with _refused(f"step {name} of augmentation {self.name!r} failed"):
                    found = step(found)
        is_tensor = isinstance(found, torch.Tensor)
        what = f"{found.dtype} {tuple(found.shape)}" if is_tensor else type(found).__name__
        if what != (wanted := f"torch.uint8 {(3, *size)}"):
            raise UsageError(
                f"augmentation {self.name!r} returned {what}, expected {wanted}; leave out steps "
                f"that change type or size, or end with CenterCrop"
            )
        return found.contiguous()  # type: ignore[no-any-return]


def _refused(sentence: str) -> AbstractContextManager[None]:
    """Turn torchvision's errors into a `UsageError`."""
    see = "see the documentation of torchvision.transforms.v2"
    return reworded(lambda error: UsageError(f"{sentence} ({first_line(error)}); {see}"))


def find_policy(name: str) -> Policy:
    """Return a policy by its name or from a YAML file, and test it on a small image.

    Parameters
    ----------
    name : str
        One of `POLICIES`, or the path of a ``.yaml`` or ``.yml`` file: a list of
        ``- ClassName: {argument: value}``.

    Returns
    -------
    Policy

    Raises
    ------
    UnknownNameError
        The policy or a class does not exist.
    PathMissingError
        The file does not exist.
    UsageError
        The file does not contain such a list, or a class does not accept its arguments.
    """
    path = Path(check_augmentation(name))
    policy = Policy(path.stem, _STEPS[name] if name in _STEPS else _read_steps(path))
    _try(policy)
    return policy


def _read_steps(path: Path) -> tuple[_Step, ...]:
    import yaml

    try:
        content = read_regular(path)
        _check_extent(content)
        found = yaml.safe_load(content)
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} is not a list of augmentation steps ({first_line(error)}); {_FORM}"
        ) from error
    return _checked_steps(path, found)


def _check_extent(content: bytes) -> None:
    """Raise an error for YAML that is large, also once its aliases are replaced, or very deep."""
    import yaml

    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    depth = 0
    for event in yaml.parse(content, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # few of them can stand for billions of values
            raise yaml.YAMLError(f"it has the alias *{event.anchor}: write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")


def _checked_steps(path: Path, found: Any) -> tuple[_Step, ...]:
    """Return the steps of a YAML list if each is a class name and its arguments."""
    from bottleneck.augment.pipelines import known_classes

    if not isinstance(found, list) or not found:
        raise UsageError(
            f"{str(path)!r} holds {found!r:.60}, not a list of augmentation steps; {_FORM}"
        )
    known, steps = known_classes(), []
    for each in found:
        step = {each: None} if isinstance(each, str) else each
        if not isinstance(step, dict) or len(step) != 1:
            raise UsageError(f"{str(path)!r} has the invalid step {each!r:.60}; {_FORM}")
        ((name, given),) = step.items()
        if name not in known:
            raise UnknownNameError(
                f"{str(path)!r} names {str(name)!r}; expected a class of torchvision.transforms.v2"
                f"{did_you_mean(str(name), known)}"
            )
        arguments = given or {}
        wrong = ""
        if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
            wrong = f"{arguments!r:.60}; expected its arguments by name, as {{argument: value}}"
        elif "size" in arguments:
            wrong = "a size; leave it out, because views have the input size of the base"
        if wrong:
            raise UsageError(f"{str(path)!r} gives {name} {wrong}")
        if "transforms" in arguments:
            inner = _checked_steps(path, arguments["transforms"])
            arguments = {**arguments, "transforms": [{key: value} for key, value in inner]}
        steps.append((name, arguments))
    return tuple(steps)


def _try(policy: Policy) -> None:
    """Make two small views, and the first again, which must be identical."""
    import torch

    high, wide = _TRIAL_SIZE
    pixels = (torch.arange(3 * high * wide) * 7 % 256).to(torch.uint8).reshape(3, high, wide)
    views = [policy.augment(pixels, "", view, _TRIAL_SIZE) for view in (1, 2, 1)]
    if not torch.equal(views[0], views[2]):
        raise UsageError(
            f"augmentation {policy.name!r} does not give the same view each time; use only steps "
            f"that draw from torch's random generator"
        )
