"""Settings for going from images to an evaluated head in one command."""

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from bottleneck.fields import ARGUMENT, settings
from bottleneck.settings import values
from bottleneck.settings.features import ImageSettings

__all__ = ["AutoSettings"]


@settings("Search", kw_only=True)
class AutoSettings(ImageSettings):
    """Settings for finding a head: the images, the time, and what is tried."""

    data: Annotated[values.DataPath, ARGUMENT] = Path("data")
    minutes: Annotated[
        values.Positive | None,
        Doc("Stop after about so many minutes, with the best head so far; by default at the end."),
    ] = None
    models: Annotated[
        tuple[str, ...],
        Doc(
            "A base that may be taken; may repeat. By default those whose weights are on this "
            "machine."
        ),
    ] = ()
    clfs: Annotated[
        tuple[values.Classifier, ...],
        Doc("A classifier to try; may repeat. By default three that are fitted fast."),
    ] = ()
    device: values.Device = "auto"
