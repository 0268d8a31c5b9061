"""Decide what to do next, by explicit rules with the thresholds below."""

from dataclasses import dataclass, replace

from bottleneck.advise.curve import Estimate
from bottleneck.advise.evidence import EARLY, Evidence, FineTuning
from bottleneck.errors import counted
from bottleneck.experiments import FineTuned

__all__ = [
    "CEILING",
    "EARLIER_LAYER",
    "HEAD",
    "JOINED",
    "MORE_DATA",
    "NOTHING_LEFT",
    "PLATEAUED",
    "POOLING",
    "UNDECIDED",
    "Option",
    "Verdict",
    "borne_out",
    "decide",
]

MORE_DATA = "more data helps"
EARLIER_LAYER = "an earlier layer helps"
POOLING = "another pooling helps"
JOINED = "joined layers help"
HEAD = "regularise or enlarge the head"
CEILING = "label noise or a ceiling"
NOTHING_LEFT = "nothing left to gain"
PLATEAUED = "plateaued"
UNDECIDED = "undecided"

_STATES = _RULED_OUT, _OPEN, _SHOWN = "ruled out", "open", "shown"

_NEGLIGIBLE = 2
"""A gain is ruled out if its interval ends below twice a useful gain, see `Evidence.worth`."""
_NOTHING_LEFT = 0.02
"""Below this error, no gain is visible."""
_AT_MOST_LEFT = 0.05
"""Upper limit of the error's interval, for the same rule."""
_NOISE_SHARE = 0.5
"""Labels are noisy if the most confident predictions have this fraction of the error."""
_NEAR_CHANCE = 0.5
"""A head with more than this fraction of the error of guessing has no confident predictions."""

_TO_LEARN_FROM = 200
"""Fine-tuning gained where heads were wrong about so many training images, if these are held out;
see docs/performance.md. Images are counted, not groups: that is what was measured."""
_NO_GAIN = {CEILING, NOTHING_LEFT}
"""Kinds by which fine-tuning gains nothing; the others do not tell, unless a gain is expected."""

_Conclusion = tuple[str, str, Estimate | None, str | None]
"""Kind of a verdict, its reason, the expected gain, and the layer to fine-tune from."""


@dataclass(frozen=True)
class Option:
    """A possible next step and its expected gain.

    Attributes
    ----------
    kind : str
        `MORE_DATA`, `EARLIER_LAYER`, `POOLING`, `JOINED` or `HEAD`.
    what : str
        Description in words.
    gain : Estimate
        Gain in accuracy.
    state : str
        ``shown``, ``ruled out`` or ``open``.
    cost : str
        Cost in words.
    best_of : int
        Number of layers or heads of which this one was selected for its gain. The interval of the
        gain allows for all of them, but the gain itself is too good if there are several.
    choice : Estimate or None
        Then the gain if the choice for each fold is made on the others, see `gain_of_choice`. It
        is too good, too, but less.
    """

    kind: str
    what: str
    gain: Estimate
    state: str
    cost: str
    best_of: int = 1
    choice: Estimate | None = None


@dataclass(frozen=True)
class Verdict:
    """The recommended next step.

    Attributes
    ----------
    kind : str
        One of the kinds above.
    sentence : str
        The recommendation, with its evidence, expected gain and cost.
    layer : str or None
        Layer to start fine-tuning from, if that is expected to gain, or if only that can show
        whether the head has plateaued.
    gain : Estimate or None
        Expected gain in accuracy, if any, with its 95% interval.
    at_most : float
        Upper bound of any gain, from the error of the most confident predictions.
    options : list of Option
        All options considered.
    tuning_gains : bool
        Whether fine-tuning is expected to gain, whatever the kind.
    """

    kind: str
    sentence: str
    layer: str | None
    gain: Estimate | None
    at_most: float
    options: list[Option]
    tuning_gains: bool

    @property
    def expectation(self) -> bool | None:
        """Whether fine-tuning is said to gain, or to gain nothing; None if neither is said."""
        return self.tuning_gains or (False if self.kind in _NO_GAIN else None)


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict that follows from the evidence.

    The rules in order: nothing is left to gain; else the shown option with the largest gain; else
    undecided, if the interval of any option includes a useful gain; else the curve is flat, and the
    verdict names what limits it.

    Fine-tuning is expected to gain if the head has plateaued, or if there are enough errors to
    learn from and they are neither those of labels nor of images.

    Parameters
    ----------
    evidence : Evidence
        The measurements.

    Returns
    -------
    Verdict
    """
    options = _options(evidence)
    kind, text, gain, layer = _conclusion(evidence, options)
    enough = evidence.wrong >= _TO_LEARN_FROM and kind not in _NO_GAIN
    if enough and kind != PLATEAUED and evidence.tuning:
        layer = layer or evidence.tuning.layer
        text += (
            f"; fine-tuning from {layer} is expected to gain as well, as the head is wrong about "
            f"{evidence.wrong:.0f} of the training images when they are held out; cost: "
            f"{_cost(evidence, evidence.tuning)}"
        )
    gains = enough or kind == PLATEAUED
    return Verdict(kind, f"{kind}: {text}", layer, gain, evidence.at_most, options, gains)


def borne_out(verdict: Verdict, evidence: Evidence, tuned: FineTuned) -> str:
    """Say whether a verdict is borne out by what fine-tuning gave, by the rules for gains.

    A verdict that does not say whether fine-tuning gains can be neither right nor wrong about it.

    Parameters
    ----------
    verdict, evidence : Verdict, Evidence
        The advice.
    tuned : FineTuned
        The result of fine-tuning.

    Returns
    -------
    str
        A clause.
    """
    expected, state = verdict.expectation, _state(evidence, Estimate(tuned.gain, *tuned.interval))
    told = f"'advise' expected {'a' if expected else 'no'} gain from fine-tuning"
    if expected is None:
        told = "'advise' did not say whether fine-tuning gains"
    if tuned.unchanged:
        found = "" if expected is None else f", which is {'not ' if expected else ''}borne out"
        return f"{told}{found}; no epoch was better than the head by more than a standard error"
    if state == _OPEN:
        return f"{told}: these images are too few to show whether there is a gain"
    if expected is None:
        return f"{told}; a gain is {state}"
    return f"{told}, which is {'' if (state == _SHOWN) == expected else 'not '}borne out"


def _conclusion(evidence: Evidence, options: list[Option]) -> _Conclusion:
    accuracy = evidence.accuracy
    if evidence.error < _NOTHING_LEFT and 1 - accuracy.low < _AT_MOST_LEFT:
        text = (
            f"held-out accuracy is {accuracy.value:.3f} ({accuracy.low:.3f} to "
            f"{accuracy.high:.3f}); {evidence.images} images are too few to show any further gain"
        )
        return NOTHING_LEFT, text, None, None
    if shown := [each for each in options if each.state == _SHOWN]:
        best = max(shown, key=lambda each: each.gain.value)
        gain = f"{best.gain} in accuracy"
        if best.choice:
            gain += f", selected as the best of {best.best_of}, or {best.choice} with each fold "
            gain += "scored by the best of the others, which removes most of the selection"
        text = f"{best.what} is expected to gain {gain}; cost: {best.cost}"
        return best.kind, text, best.gain, None
    if still_open := [each for each in options if each.state == _OPEN]:
        gains = " and ".join(f"{each.what}: {each.gain}" for each in still_open)
        more = "images of more groups" if evidence.grouped else "more images"
        text = (
            f"the intervals of the possible steps are too wide to tell no gain from a useful one "
            f"({gains}); {more} would narrow them"
        )
        return UNDECIDED, text, None, None
    return _of_a_flat_curve(evidence)


def _of_a_flat_curve(evidence: Evidence) -> _Conclusion:
    """Say what limits a head that no option improves: the labels, the images or the layer."""
    joined, rise, tuning = evidence.joined, evidence.rise, evidence.tuning
    unsure_where_wrong = evidence.confident_error.high < _NOISE_SHARE * evidence.error
    flat = (
        f"held-out accuracy is {evidence.accuracy.value:.3f}, and neither more images nor "
        f"another layer or head improves it"
    )
    if joined and _state(evidence, joined.gain) == _SHOWN:
        why = (
            f"{flat}, but {joined.layer} has information that the last layer lacks: joining both "
            f"gains {joined.gain}"
        )
        return _plateaued(evidence, why, joined.tuning, joined.gain)
    limit = _noisy_labels(evidence)
    if unsure_where_wrong:
        limit = limit or _depth_does_not_matter(evidence)
    if limit:
        return CEILING, f"{flat}; {limit}", None, None
    if rise and _state(evidence, rise.gain) == _SHOWN and unsure_where_wrong:
        why = (
            f"{flat}; the errors are where the head is unsure, and layers improve with depth: "
            f"the last is {rise.gain} above the best early one, {rise.layer}"
        )
        return _plateaued(evidence, why, rise.tuning, None)
    trial = (
        f"to find out, fine-tune from {tuning.layer if tuning else 'the last block'} (cost: "
        f"{_cost(evidence, tuning)})"
    )
    if all(each.depth > EARLY for each in evidence.layers):
        trial = f"extract early layers too (all-blocks, pooled by avg), or {trial}"
    text = f"{flat}; these layers do not show whether the labels or the network limit it: {trial}"
    return UNDECIDED, text, None, tuning.layer if tuning else None


def _noisy_labels(evidence: Evidence) -> str | None:
    """Return a sentence if predictions are wrong however confident they are."""
    found, error = evidence.confident_error, evidence.error
    near_chance = error >= _NEAR_CHANCE * (1 - 1 / evidence.classes)
    if found.low <= _NOISE_SHARE * error or near_chance:
        return None
    return (
        f"even among the 25% most confident predictions, {found.value:.3f} ({found.low:.3f} to "
        f"{found.high:.3f}) contradict the label, against {error:.3f} of all predictions: check "
        f"the labels of these images"
    )


def _depth_does_not_matter(evidence: Evidence) -> str | None:
    """Return a sentence if an early layer is as good as the last and adds nothing to it."""
    joined, margin = evidence.joined, _NEGLIGIBLE * evidence.worth
    if joined and _state(evidence, joined.gain) == _RULED_OUT:
        for each in evidence.layers:
            apart = each.difference
            if apart and each.depth <= EARLY and max(-apart.low, apart.high) < margin:
                return (
                    f"{each.name}, at {each.depth:.0%} of the network's cost, is as accurate as "
                    f"the last layer ({apart}), and joining layers adds nothing ({joined.gain}): "
                    f"the images or labels limit the accuracy, not the network"
                )
    return None


def _plateaued(
    evidence: Evidence, why: str, tuning: FineTuning | None, gain: Estimate | None
) -> _Conclusion:
    where = f"fine-tune from {tuning.layer}" if tuning else "fine-tune the layers after that one"
    unknown = f"unknown in advance, at most {evidence.at_most:.3f}"
    text = f"{where}: {why}; expected gain: {gain or unknown}; cost: {_cost(evidence, tuning)}"
    return PLATEAUED, text, gain, tuning.layer if tuning else None


def _cost(evidence: Evidence, tuning: FineTuning | None) -> str:
    if tuning is None:
        return "that of training the network, which is unknown"
    return (
        f"{tuning.multiply_adds * evidence.images:.2g} multiply-adds per epoch over "
        f"{evidence.images} images, {tuning.extractions:.1f} times the cost of their extraction "
        f"and {tuning.head_epochs:,.0f} times that of an epoch of the head"
    )


def _options(evidence: Evidence) -> list[Option]:
    """Return the options: more images, and the best of the other layers and heads."""

    def option(kind: str, what: str, gain: Estimate, cost: str) -> Option:
        return Option(kind, what, gain, _state(evidence, gain), cost)

    double = evidence.curve.forecasts[0]
    more = counted(double.images - evidence.images, "more labelled image")
    options = [option(MORE_DATA, f"twice the images ({double.images})", double.gain, more)]
    layers, heads = [], []
    last = [each.layer for each in evidence.layers if not each.difference]
    for each in evidence.layers:
        if each.difference:
            kind = JOINED if each.joined else POOLING if each.layer in last else EARLIER_LAYER
            layers.append(option(kind, f"a head on {each.name}", each.difference, "none: cached"))
    for head in evidence.heads:
        what = f"{'a larger' if head.richer else 'a simpler'} head ({head.clf})"
        heads.append(option(HEAD, what, head.difference, f"one fit of {head.clf}"))
    for some, choice in ((layers, evidence.layer_choice), (heads, evidence.head_choice)):
        best = sorted(some, key=lambda each: (_STATES.index(each.state), each.gain.value))[-1:]
        options += [replace(each, best_of=len(some), choice=choice) for each in best]
    return options


def _state(evidence: Evidence, gain: Estimate) -> str:
    """Return whether an interval shows a gain, rules it out, or leaves it open."""
    if gain.low > 0 and gain.value >= evidence.worth:
        return _SHOWN
    return _RULED_OUT if gain.high < _NEGLIGIBLE * evidence.worth else _OPEN
