"""The sections of the page, in order."""

from collections.abc import Callable

from stepcredit.viewer.panels.objectives import conflict, mixing
from stepcredit.viewer.panels.outcome import outcome
from stepcredit.viewer.panels.rewards import curves
from stepcredit.viewer.panels.steps import when
from stepcredit.viewer.panels.story import Panel, Story
from stepcredit.viewer.panels.updates import update

SECTIONS: list[tuple[str, str, Callable[[Story], list[Panel]]]] = [
    ("rewards", "Rewards over time", curves),
    ("outcome", "Did the samples get better?", outcome),
    ("when", "Which steps received the credit", when),
    ("mixing", "How the objectives were mixed", mixing),
    ("conflict", "Do the rewards agree?", conflict),
    ("update", "The updates", update),
]
"""Anchor, title and panels of each; one without panels is left out."""
