"""What to do next, by stated rules: the thresholds below are all there is to them."""

from dataclasses import dataclass

from bottleneck.advise.curve import LearningCurve
from bottleneck.advise.evidence import EARLY, Contrast, HeadScore, LayerScore
from bottleneck.advise.network import FineTuning
from bottleneck.advise.samples import Estimate

__all__ = [
    "CEILING",
    "EARLIER_LAYER",
    "HEAD",
    "MORE_DATA",
    "PLATEAUED",
    "POOLING",
    "UNDECIDED",
    "Evidence",
    "Option",
    "Verdict",
    "decide",
]

MORE_DATA = "more data helps"
EARLIER_LAYER = "an earlier layer helps"
POOLING = "another pooling helps"
HEAD = "regularise or enlarge the head"
CEILING = "label noise or a ceiling"
PLATEAUED = "plateaued"
UNDECIDED = "undecided"

SHOWN, OPEN, RULED_OUT = "shown", "open", "ruled out"
_STATES = (RULED_OUT, OPEN, SHOWN)

_WORTH, _WORTH_SHARE = 0.01, 0.1
"""A gain is worth naming from a point of accuracy on, and from a tenth of the error on."""
_NEGLIGIBLE = 2
"""A gain is ruled out where its interval ends below twice that."""
_NOTHING_LEFT = 0.02
"""An error below which nothing that could be gained would be seen."""
_AT_MOST_LEFT = 0.05
"""And what its interval has to stay below."""
_NOISE_SHARE = 0.5
"""Labels are noisy where the rows that the head is surest of have this share of the error."""
_NEAR_CHANCE = 0.5
"""A head with more than this share of the error of guessing is sure of nothing."""


@dataclass(frozen=True)
class Evidence:
    """All that the rules look at.

    Attributes
    ----------
    accuracy : Estimate
        Of images held out, by heads on the last layer fitted on all others.
    classes : int
        How many there are.
    images : int
        Training images.
    curve : LearningCurve
        Of the last layer.
    layers : list of LayerScore
        In the network's order.
    heads : list of HeadScore
        On the last layer.
    joined : Contrast or None
        What another layer adds to the last one, see `bottleneck.advise.evidence.joined_gain`.
    rise : Contrast or None
        By how much the accuracy of the last layer is above that of the best early one.
    surest_error : Estimate
        Of the quarter of the images that the head is surest of.
    tuning : FineTuning or None
        The cheapest one, that of the last block.
    """

    accuracy: Estimate
    classes: int
    images: int
    curve: LearningCurve
    layers: list[LayerScore]
    heads: list[HeadScore]
    joined: Contrast | None
    rise: Contrast | None
    surest_error: Estimate
    tuning: FineTuning | None

    @property
    def worth(self) -> float:
        """The least gain in accuracy that is worth naming."""
        return max(_WORTH, _WORTH_SHARE * self.error)

    @property
    def error(self) -> float:
        """The share of held-out images that got another class."""
        return 1 - self.accuracy.value


@dataclass(frozen=True)
class Option:
    """Something to do, and what it is expected to bring.

    Attributes
    ----------
    kind : str
        `MORE_DATA`, `EARLIER_LAYER`, `POOLING` or `HEAD`.
    what : str
        It, in words.
    gain : Estimate
        In accuracy.
    state : str
        ``shown``, ``ruled out`` or ``open``.
    cost : str
        In words.
    """

    kind: str
    what: str
    gain: Estimate
    state: str
    cost: str


@dataclass(frozen=True)
class Verdict:
    """What to do next.

    Attributes
    ----------
    kind : str
        One of those above.
    sentence : str
        It, with its evidence, expected gain and cost.
    layer : str or None
        From which layer on to fine-tune, where it has plateaued.
    gain : Estimate or None
        In accuracy, where one can be expected; its low and high are 95% limits.
    at_most : float
        What the images that the head is surest of leave to be gained.
    options : list of Option
        All that was weighed.
    """

    kind: str
    sentence: str
    layer: str | None
    gain: Estimate | None
    at_most: float
    options: list[Option]


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict that the evidence allows.

    In this order: nothing is left; the option with the largest gain that is shown; undecided while
    the interval of one includes a gain; then the curve is flat, and what limits it is asked for.
    """
    options = _options(evidence)
    shown = [each for each in options if each.state == SHOWN]
    still_open = [each for each in options if each.state == OPEN]
    if evidence.error < _NOTHING_LEFT and 1 - evidence.accuracy.low < _AT_MOST_LEFT:
        return _verdict(evidence, options, CEILING, _nothing_left(evidence))
    if shown:
        best = max(shown, key=lambda each: each.gain.value)
        text = f"{best.what} is expected to gain {best.gain} of accuracy; cost: {best.cost}"
        return _verdict(evidence, options, best.kind, text, gain=best.gain)
    if still_open:
        texts = " and ".join(f"{each.what}: {each.gain}" for each in still_open)
        text = (
            f"the intervals of what could help include no gain and a good one ({texts}); more "
            f"images would narrow them"
        )
        return _verdict(evidence, options, UNDECIDED, text)
    return _of_a_flat_curve(evidence, options)


def _of_a_flat_curve(evidence: Evidence, options: list[Option]) -> Verdict:
    """Say what limits a head that nothing here helps: the labels, the images or the layer."""
    flat = (
        f"held-out accuracy is {evidence.accuracy.value:.3f}, and neither more images nor another "
        f"layer or head moves it"
    )
    joined = evidence.joined
    if joined and _state(evidence, joined.gain) == SHOWN:
        why = (
            f"but {joined.layer} knows what the last layer does not: joined to it, it gains "
            f"{joined.gain}"
        )
        return _plateaued(evidence, options, f"{flat}, {why}", joined.tuning, gain=joined.gain)
    if limit := _noisy_labels(evidence) or _depth_does_not_matter(evidence):
        return _verdict(evidence, options, CEILING, f"{flat}; {limit}")
    rise = evidence.rise
    if rise and _state(evidence, rise.gain) == SHOWN and _unsure_where_wrong(evidence):
        why = (
            f"the errors are where the head is unsure, and layers get better with depth: the last "
            f"is {rise.gain} above the best early one, {rise.layer}"
        )
        return _plateaued(evidence, options, f"{flat}; {why}", rise.tuning)
    unknown = "these layers do not tell whether the labels or the network limit it"
    text = f"{flat}; {unknown}: {_how_to_tell(evidence)}"
    return _verdict(evidence, options, UNDECIDED, text)


def _noisy_labels(evidence: Evidence) -> str | None:
    """Say so where rows are told wrongly wherever they are."""
    surest, error = evidence.surest_error, evidence.error
    near_chance = error >= _NEAR_CHANCE * (1 - 1 / evidence.classes)
    if surest.low <= _NOISE_SHARE * error or near_chance:
        return None
    return (
        f"even of the quarter of the images that the head is surest of, {surest.value:.3f} "
        f"({surest.low:.3f} to {surest.high:.3f}) carry another label, where {error:.3f} of all "
        f"do: look through these labels"
    )


def _depth_does_not_matter(evidence: Evidence) -> str | None:
    """Say so where an early layer is as good as the last and has nothing to add to it."""
    level, joined = _level_early_layer(evidence), evidence.joined
    if not (level and joined and _unsure_where_wrong(evidence)):
        return None
    if _state(evidence, joined.gain) != RULED_OUT:
        return None
    return (
        f"{level.name}, at {level.depth:.0%} of the network's cost, reaches the same "
        f"({level.difference}), and joining layers adds nothing ({joined.gain}): the images or "
        f"labels leave the rest undetermined"
    )


def _unsure_where_wrong(evidence: Evidence) -> bool:
    return evidence.surest_error.high < _NOISE_SHARE * evidence.error


def _plateaued(
    evidence: Evidence,
    options: list[Option],
    why: str,
    tuning: FineTuning | None,
    *,
    gain: Estimate | None = None,
) -> Verdict:
    where = f"fine-tune from {tuning.layer}" if tuning else "fine-tune the layers after that one"
    unknown = f"not known before it is tried, at most {_at_most(evidence):.3f}"
    text = f"{where}: {why}; expected gain: {gain or unknown}; cost: {_cost(evidence, tuning)}"
    layer = tuning.layer if tuning else None
    return _verdict(evidence, options, PLATEAUED, text, gain=gain, layer=layer)


def _verdict(
    evidence: Evidence,
    options: list[Option],
    kind: str,
    text: str,
    *,
    gain: Estimate | None = None,
    layer: str | None = None,
) -> Verdict:
    return Verdict(kind, f"{kind}: {text}", layer, gain, _at_most(evidence), options)


def _at_most(evidence: Evidence) -> float:
    """Return the error less what even the images that the head is surest of have of it."""
    return max(0.0, evidence.error - min(evidence.surest_error.value, evidence.error))


def _nothing_left(evidence: Evidence) -> str:
    return (
        f"held-out accuracy is {evidence.accuracy.value:.3f} "
        f"({evidence.accuracy.low:.3f} to {evidence.accuracy.high:.3f}); nothing is left "
        f"to gain that {evidence.images} images could show"
    )


def _level_early_layer(evidence: Evidence) -> LayerScore | None:
    """Return an early layer that is neither better nor worse than the last."""
    margin = _NEGLIGIBLE * evidence.worth
    for each in evidence.layers:
        apart = each.difference
        if apart and each.depth <= EARLY and max(-apart.low, apart.high) < margin:
            return each
    return None


def _how_to_tell(evidence: Evidence) -> str:
    tuning = evidence.tuning
    start = tuning.layer if tuning else "the last block"
    trial = f"fine-tune from {start} and see, at {_cost(evidence, tuning)}"
    if any(each.depth <= EARLY for each in evidence.layers):
        return trial
    return f"extract early layers too ('--layer all-blocks --pool avg'), or {trial}"


def _cost(evidence: Evidence, tuning: FineTuning | None) -> str:
    if tuning is None:
        return "the cost of training the network, which is not known here"
    return (
        f"{tuning.multiply_adds * evidence.images:.2g} multiply-adds an epoch over "
        f"{evidence.images} images, {tuning.extractions:.1f} times their extraction and "
        f"{tuning.head_epochs:,.0f} times an epoch of the head"
    )


def _options(evidence: Evidence) -> list[Option]:
    double = evidence.curve.forecasts[0]
    more = f"{double.images - evidence.images} more labelled images"
    twice = f"twice the images ({double.images})"
    options = [_option(evidence, MORE_DATA, twice, double.gain, more)]
    last = [each.layer for each in evidence.layers if not each.difference]
    layers = [
        _option(evidence, kind, f"a head on {each.name}", each.difference, "none: cached")
        for each in evidence.layers
        for kind in [POOLING if each.layer in last else EARLIER_LAYER]
        if each.difference
    ]
    heads = [
        _option(
            evidence,
            HEAD,
            f"{'a larger' if each.richer else 'a simpler'} head ({each.clf})",
            each.difference,
            f"one fit of {each.clf}",
        )
        for each in evidence.heads
    ]
    for some in (layers, heads):
        options += sorted(some, key=lambda each: (_STATES.index(each.state), each.gain.value))[-1:]
    return options


def _option(evidence: Evidence, kind: str, what: str, gain: Estimate, cost: str) -> Option:
    return Option(kind, what, gain, _state(evidence, gain), cost)


def _state(evidence: Evidence, gain: Estimate) -> str:
    """Return what an interval says of a gain."""
    if gain.low > 0 and gain.value >= evidence.worth:
        return SHOWN
    return RULED_OUT if gain.high < _NEGLIGIBLE * evidence.worth else OPEN
