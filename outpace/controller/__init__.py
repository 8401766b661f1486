"""How much to guess: a fixed number, or what the measured cost of a pass and the chances of the guesses say."""

from outpace.controller.adaptive import AdaptiveController, Step
from outpace.controller.base import Controller, FixedController, Plan, Speculation
from outpace.controller.cost import CostTable, VerifyCost, cost_of, measure_cost, measure_verify_cost

__all__ = [
    "AdaptiveController",
    "Controller",
    "CostTable",
    "FixedController",
    "Plan",
    "Speculation",
    "Step",
    "VerifyCost",
    "cost_of",
    "measure_cost",
    "measure_verify_cost",
]
