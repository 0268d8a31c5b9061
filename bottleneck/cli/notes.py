"""Notes that several commands print."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.cli.output import print_table, progress_shown, wanted
from bottleneck.cli.streams import note, note_list
from bottleneck.cli.summary import note_known
from bottleneck.errors import as_options, counted
from bottleneck.records import ExtractedShard

if TYPE_CHECKING:
    from bottleneck.cache import Cache
    from bottleneck.experiments import FineTuned
    from bottleneck.features import Features
    from bottleneck.heads import Head
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.records import AnySource, Extraction

__all__ = [
    "by_shard",
    "find_alike",
    "note_candidates",
    "note_extreme",
    "note_features",
    "note_folds",
    "note_random",
    "note_rejected",
    "note_replaced",
    "note_shard",
    "note_unseen",
    "print_fine_tuned",
]

_MOST = 20
_FOLDS = 5
"""Of a sweep without validation images, by default."""
_CLEARLY = 0.04
_OR_GROUPS = ", or on images of their groups"


def note_random(random: bool) -> None:
    """Note that the weights are random.

    Parameters
    ----------
    random : bool
        Whether the weights are random.
    """
    if random:
        note("note: the weights are random; the features are for testing only")


def by_shard(missing: Sequence[int]) -> str:
    """Return how many images are missing in which shards.

    Parameters
    ----------
    missing : sequence of int
        Number of images of each shard.

    Returns
    -------
    str
        Such as ``75 in 1/4, 80 in 3/4``, of many shards only the first.
    """
    count = len(missing)
    found = [f"{each} in {number}/{count}" for number, each in enumerate(missing, 1) if each]
    more = [f"and {counted(len(found) - _MOST, 'other shard')}"] if len(found) > _MOST else []
    return ", ".join([*found[:_MOST], *more]) or "none"


def note_shard(done: "Extraction") -> None:
    """Note what other shards have still to compute.

    Parameters
    ----------
    done : Extraction
        The result of an extraction.
    """
    if isinstance(done, ExtractedShard):
        left = counted(sum(done.missing), "image is", "images are")
        note(
            f"note: shard {done.shard} is done; {left} missing "
            f"({by_shard(done.missing)}): the last shard, or extract without --shard, completes "
            f"image set {done.image_set!r}"
        )


def note_replaced(replaced: bool) -> None:
    """Note that a head of the same name was replaced.

    Parameters
    ----------
    replaced : bool
        Whether a head was replaced.
    """
    if replaced:
        note("note: this replaced the head of the same name; use --name to keep both")


def note_rejected(rejected: "Sequence[RejectedImage]") -> None:
    """List rejected images.

    Parameters
    ----------
    rejected : sequence of RejectedImage
        The images, with the reasons.
    """
    if rejected:
        lines = [f"{image.path}: {as_options(image.reason)}" for image in rejected]
        note_list(f"{counted(len(lines), 'image')} could not be used:", lines, most=len(lines))


def note_extreme(metrics: Mapping[str, Any], where: str = "") -> None:
    """Note that few images make most of the log loss.

    Parameters
    ----------
    metrics : mapping of str to Any
        With the results of `bottleneck.heads.scoring.extreme_losses`.
    where : str
        Of which candidate.
    """
    if count := metrics.get("extreme_images", 0):
        label = "whose label" if count == 1 else "whose labels"
        note(
            f"note: {metrics['extreme_loss_share']:.0%} of the log loss{where} is that of "
            f"{counted(count, 'image')}, {label} had a probability of less than one in a million; "
            f"probably, features that hardly vary in the other images are extreme in "
            f"{'it' if count == 1 else 'them'}: 'bottleneck suspects' lists outliers"
        )


def note_folds(folds: Sequence[int], asked: int | None) -> None:
    """Note where a small class made folds fewer; a single one is that of the val images.

    Parameters
    ----------
    folds : sequence of int
        Numbers of folds.
    asked : int or None
        The number asked for, if any.
    """
    fewest = min(folds, default=1)
    if 1 < fewest < (asked or _FOLDS):
        note(
            f"note: {fewest} folds instead of {asked or _FOLDS}, as a class has no more "
            f"different training images, or is in no more groups"
        )


def note_candidates(head: "Head") -> None:
    """Note where few images decide the choice, and where another candidate is more accurate.

    Parameters
    ----------
    head : Head
        A head with held-out scores.
    """
    candidates = head.scores["candidates"]
    name = next(iter(candidates[0]))
    if len(candidates) == 1:
        note_extreme(head.scores)
        return
    odd = [each for each in candidates if each["extreme_images"]]
    for each in odd[:1]:
        note_extreme(each, f" at {name} = {each[name]:g}")
    own = next(each for each in candidates if each[name] == head.hyperparameters[name])
    best = max(candidates, key=lambda each: float(each["accuracy"]))
    if best["accuracy"] - own["accuracy"] > _CLEARLY:
        note(
            f"note: {name} was chosen by log loss; {name} = {best[name]:g} is more accurate on "
            f"the same images, {best['accuracy']:.4f} rather than {own['accuracy']:.4f}: give it "
            f"if the predicted classes matter more than their probabilities"
        )


def note_unseen(features: "Features", head: "Head", cache: "Cache", split: str) -> None:
    """Note that only images are scored that a head has not seen, as its image set has changed.

    Parameters
    ----------
    features : Features
        The features that the head is evaluated on.
    head : Head
        The head.
    cache : Cache
        The cache of the features.
    split : str
        The split that it is evaluated on.
    """
    from bottleneck.features import has_changed, seen_by_network
    from bottleneck.images import group_mates

    if head.source and has_changed(head.source, features.images):
        own = [item.digest for item in features.images.items if item.split == split]
        network = seen_by_network(head.source, cache) if split == "test" else None
        trained_on = group_mates(features.images.items, features.images.group_of, network or ())
        left_out = len(own) - len(features.split(split)) - sum(each in trained_on for each in own)
        if left_out:
            note(
                f"note: the images of {features.images.name!r} have changed since the head was "
                f"fitted; {left_out} of {counted(len(own), f'{split} image')} left out, as the "
                f"head was fitted or selected on them{_OR_GROUPS * bool(features.images.group_of)}"
            )


def note_features(
    images: "ImageSet",
    sources: "Sequence[AnySource]",
    cache: "Cache",
    splits: Sequence[str] = ("train", "val"),
    *,
    evaluated: bool = False,
) -> None:
    """Report problems of features: of their images and weights, and images used in fine-tuning.

    Parameters
    ----------
    images : ImageSet
        The images of the features.
    sources : sequence of FeatureSource or JoinedSource
        The sources of the features.
    cache : Cache
        The cache of the features.
    splits : sequence of str
        The splits that scores are computed on.
    evaluated : bool
        As for `note_known`.
    """
    from bottleneck.bases import digests_of_network, is_finetuned
    from bottleneck.features import seen_by_network
    from bottleneck.images import same_images

    note_known(images, evaluated=evaluated)
    note_random(any(source.weights_random for source in sources))
    told = " and ".join(splits)
    judged = [item.digest for item in images.items if item.split in splits]
    bases = {part.model: part for source in sources for part in source.parts}
    for model, source in bases.items():
        recorded = seen_by_network(source, cache)
        if recorded is None and not is_finetuned(model):
            note(
                f"warning: the fine-tuned model {model!r} is not there and its features are of an "
                f"earlier version, so that it may have been trained on images of {told}, and "
                f"scores on them be too high; run 'bottleneck extract --model' with its folder"
            )
            continue
        seen = same_images(judged, digests_of_network(model) if recorded is None else recorded)
        if not (known := sum(digest in seen for digest in judged)):
            continue
        share = f"{known} of {counted(len(judged), f'{told} image')}"
        if recorded and evaluated and told == "test":
            note(f"note: {share} left out, being used to train or validate {model!r}")
        else:
            note(
                f"warning: {share} used to train or validate {model!r}, so scores on them are too "
                f"high"
            )


def find_alike(images: "ImageSet") -> dict[str, Any]:
    """Find and list near-duplicate images; return them in JSON types.

    Parameters
    ----------
    images : ImageSet
        Images with splits; their files are read.

    Returns
    -------
    dict
        ``near_duplicates``: the pairs, and the images that could not be compared.

    Raises
    ------
    MissingExtraError, DataError
        See `bottleneck.images.find_near_duplicates`.
    """
    from bottleneck.images import find_near_duplicates

    with progress_shown() as progress:
        found = find_near_duplicates(images, progress=progress)
    count = found.count
    pairs = [
        f"{pair.first} ({pair.splits[0]}) ~ {pair.second} ({pair.splits[1]}), "
        f"{pair.distance} of 64 bits differ"
        for pair in found.pairs
    ]
    heading = f"near-duplicates in different splits: {counted(count, 'pair')}"
    note_list(f"{'warning: ' * bool(count)}{heading}", pairs, count, most=_MOST)
    if found.unread:
        first, unread = found.unread[0], counted(len(found.unread), "image")
        note(f"{unread} could not be compared, first {first.path}: {first.reason}")
    return {"near_duplicates": asdict(found)}


def print_fine_tuned(
    tuned: "Sequence[FineTuned]",
    cache: Path | None = None,
    *,
    spreadsheet_safe: bool = False,
) -> None:
    """Print fine-tuned models beside the heads that they started from.

    Parameters
    ----------
    tuned : sequence of FineTuned
        Their results.
    cache : Path, optional
        The cache whose last advice on the features of each is told to be borne out, or not.
    spreadsheet_safe : bool
        As for `bottleneck.cli.output.print_table`.
    """
    told = [""] * len(tuned)
    if cache and tuned and not wanted("csv"):
        from bottleneck.advise import outcome

        told = [outcome(each, bottleneck.Cache(cache)) for each in tuned]
    if wanted("json"):
        both = zip(tuned, told, strict=True)
        rows = [{**each.as_dict(), "verdict": words or None} for each, words in both]
        print(json.dumps(rows, indent=2))
        return
    names = ("model", "unfreeze", "images", "before", "after", "gain")
    rows = [{name: getattr(each, name) for name in names} for each in tuned]
    for row, each in zip(rows, tuned, strict=True):
        if wanted("csv"):
            row["low"], row["high"] = each.interval
        else:
            row["gain"] = each.shown_gain
    if rows:
        title = "fine-tuned models: accuracy on the same validation images, before and after"
        print_table(rows, title, spreadsheet_safe=spreadsheet_safe)
        for each, words in zip(tuned, told, strict=True):
            if words:
                print(f"{each.model}: {words}")
    elif not wanted("csv"):
        print("no fine-tuned models that recorded their result by image")
