"""What the later stages tell development of: the kinds of records there are, and their part of a model card.

Development stands below the other stages and cannot ask them; whoever puts the workspace together hands this over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.store import Record

if TYPE_CHECKING:
    from mlcycle_nb.development.card.facts import Fact
    from mlcycle_nb.store import Store

CardSource = Callable[["Store", ModelVersion, datetime], Sequence["Fact"]]
"""Returns the facts that one stage had recorded about a version by a time."""


@dataclass(frozen=True)
class StageKnowledge:
    """The stages of one workspace, as far as development has to know them.

    Attributes
    ----------
    record_kinds : tuple of type
        Every class of `Record` that the workspace may store.
    card_sources : tuple of callable
        One for each stage that has something to say in a model card, in its order.
    """

    record_kinds: tuple[type[Record], ...]
    card_sources: tuple[CardSource, ...] = ()
