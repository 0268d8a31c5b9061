"""The command that says what would help a head, and whether a verdict was borne out: advise."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.bases import costs_shown
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, print_table, progress_shown, show, stop
from bottleneck.cli.outputs import check_picture
from bottleneck.cli.streams import note
from bottleneck.errors import counted
from bottleneck.settings import LayerSettings

if TYPE_CHECKING:
    from bottleneck.advise import Advice, BaseChoice, Estimate, Step
    from bottleneck.experiments import FineTuned

__all__ = ["advise"]


@add_command("advise", "Judge", "as_json", "wide")
def advise(
    settings: bottleneck.AdviseSettings,
    chosen: LayerSettings,
    folders: options.Folders,
    picture: options.Picture = None,
    jobs: options.Jobs = -1,
    memory: options.Memory = None,
    again: Annotated[bool, Doc("Compute again what an earlier call has computed.")] = False,
) -> Any:
    """Say what would help a head: another base, more images, another layer, or fine-tuning.

    Measured on cached features: learning curves, the accuracy on each layer, and other heads. With
    several --model, it first says which base to take, and whether joining two pays. The result is
    kept in the cache folder, for the next call with the same settings and features, and for
    'bottleneck finetune'.
    """
    check_picture(picture)
    store, limit = bottleneck.Cache(folders.cache), options.memory_of(memory)
    selections = choices.choose_several(store, chosen)
    with loading():
        from bottleneck.advise import advise_on, keep_advice, next_step, outcomes, read_advice
    advice = None if again else read_advice(store, selections, settings)
    if advice:
        note("note: computed by an earlier call; --again computes it again")
    else:
        with progress_shown(unit="fits") as progress, options.in_parallel(jobs):
            shown: dict[str, Any] = {"progress": progress, "announce": _announce}
            advice = advise_on(store, selections, settings, memory=limit, **shown)
    keep_advice(store, selections, settings, advice)
    images = bottleneck.ImageSet.read_csv(store.set_file(advice.source.image_set))
    notes.note_features(images, selections, store)
    tuned = outcomes(advice, folders.heads)
    step = next_step(advice, selections, store, folders.heads)
    show(_described(advice, tuned, step), lambda: _print_advice(advice, tuned, step))
    if picture:
        from bottleneck.pictures import draw_advice

        draw_advice(advice, picture)
        note(f"learning curve and layers drawn to {picture}")
    return advice


def _announce(fits: int, seconds: float) -> None:
    note(f"advise: {counted(fits, 'fit')}, about {timedelta(seconds=max(1, round(seconds)))}")
    stop.check(seconds)


def _described(
    advice: "Advice", tuned: "Sequence[tuple[FineTuned, str]]", step: "Step"
) -> dict[str, Any]:
    """Return the advice with what follows from it, in JSON types."""
    source, facts = advice.source, advice.as_dict()
    facts.pop("turn", None)  # which only orders what is kept
    return {
        "image_set": source.image_set,
        "model": source.model,
        "layer": source.layer_name,
        "pool": source.pool,
        **facts,
        "bases": advice.bases and _described_bases(advice.bases),
        "fine_tuned": [{**each.as_dict(), "verdict": told} for each, told in tuned],
        **step._asdict(),
    }


def _described_bases(found: "BaseChoice") -> dict[str, Any]:
    """Return the comparison of bases in JSON types."""
    joined = asdict(found.joined) | {"pays": found.joined.pays, "source": str(found.joined.source)}
    return asdict(found) | {"joined": joined}


def _print_bases(found: "BaseChoice") -> None:
    rows = [
        {
            "base": each.model,
            "layer": each.layer,
            "accuracy": each.accuracy.value,
            "95% interval": _within(each.accuracy),
            "minus the first": each.difference and str(each.difference),
        }
        for each in found.bases
    ]
    joined = found.joined
    source = joined.source
    together: dict[str, Any] = {"base": source.model, "layer": source.layer_name}
    together |= {"accuracy": joined.accuracy.value, "95% interval": _within(joined.accuracy)}
    rows.append({**together, "minus the first": str(joined.difference)})
    print_table(rows, "bases", spare=("layer", "95% interval"))
    costs = {each.model: each.cost for each in found.bases} | {source.model: joined.cost}
    priced = [{"base": name, **costs_shown(cost)} for name, cost in costs.items()]
    print_table(priced, "costs", spare=("multiply-adds with head",))
    if found.choice:
        note(
            f"the first is the best of {len(found.bases)} bases on these images, so its accuracy, "
            f"also below, is too good; that of the choice of base and layer is "
            f"{found.choice.value:.3f} ({_within(found.choice)}) on images that nothing was "
            f"selected on"
        )
    else:
        note(
            f"the first is the best of {len(found.bases)} bases on these images, so its accuracy, "
            f"also below, is too good: quote that of 'bottleneck evaluate' on test images"
        )


def _print_advice(advice: "Advice", tuned: "Sequence[tuple[FineTuned, str]]", step: "Step") -> None:
    evidence, curve = advice.evidence, advice.evidence.curve
    if advice.bases:
        _print_bases(advice.bases)
    print(
        f"{advice.clf} on {counted(evidence.images, 'image')} of {advice.source.image_set!r}, "
        f"{counted(evidence.classes, 'class')}; held out: {advice.held_out}"
    )
    points = [
        _reached(each.images, each.accuracy)
        | {"training": each.train_accuracy, "gap": each.gap, "log loss": each.log_loss.value}
        for each in curve.points
    ]
    forecasts = [_reached(each.images, each.accuracy) for each in curve.forecasts]
    title = f"learning curve of {advice.source.layer_name}, then its forecast"
    print_table([*points, *forecasts], title)
    layers = [
        {
            "layer": each.layer,
            "pool": each.pool,
            "accuracy": each.accuracy.value,
            "std": each.deviation,
            "gap": each.curve.points[-1].gap,
            "log loss": each.log_loss.value,
            "twice the images": each.curve.forecasts[0].accuracy.value,
            "minus the last": each.difference and str(each.difference),
        }
        for each in evidence.layers
    ]
    print_table(layers, "layers", spare=("std", "gap", "log loss", "pool"))
    less = f"minus {advice.clf}"
    heads = [
        {"head": each.clf, "accuracy": each.accuracy.value, less: str(each.difference)}
        for each in evidence.heads
    ]
    print_table(heads, "other heads")
    if tuned:
        notes.print_fine_tuned([each for each, _ in tuned])
    if advice.bases:
        print(f"verdict on the bases: {advice.bases.sentence}")
    print(f"verdict: {advice.verdict.sentence}")
    for each, told in tuned:
        print(f"{each.model}: {told}")
    if step.minutes is not None:
        print(f"estimate: {_duration(step.minutes)} on this machine, {step.estimate}")
    print(f"next: {shlex.join(step.command)}")


def _duration(minutes: float) -> str:
    return "less than a minute" if minutes < 1 else f"about {counted(round(minutes), 'minute')}"


def _reached(images: int, accuracy: "Estimate") -> dict[str, Any]:
    return {"images": images, "accuracy": accuracy.value, "95% interval": _within(accuracy)}


def _within(estimate: "Estimate") -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
