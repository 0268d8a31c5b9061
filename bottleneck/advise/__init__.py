"""Advise what to do next: more data, another layer, another head, or fine-tuning."""

from bottleneck.advise.advice import Advice, advise_on
from bottleneck.advise.bases import BaseChoice, BaseScore, JoinedBases
from bottleneck.advise.commands import Step, next_step, outcome, outcomes
from bottleneck.advise.curve import Estimate, LearningCurve
from bottleneck.advise.evidence import Evidence
from bottleneck.advise.kept import keep_advice, last_advice, layer_to_train, read_advice
from bottleneck.advise.power_law import PowerLaw, fit_power_law
from bottleneck.advise.verdict import Verdict, borne_out, decide

__all__ = [
    "Advice",
    "BaseChoice",
    "BaseScore",
    "Estimate",
    "Evidence",
    "JoinedBases",
    "LearningCurve",
    "PowerLaw",
    "Step",
    "Verdict",
    "advise_on",
    "borne_out",
    "decide",
    "fit_power_law",
    "keep_advice",
    "last_advice",
    "layer_to_train",
    "next_step",
    "outcome",
    "outcomes",
    "read_advice",
]
