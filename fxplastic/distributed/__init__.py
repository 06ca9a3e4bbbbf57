"""Turnovers of a model that several processes train together."""

from fxplastic.distributed.ranks import Ranks
from fxplastic.distributed.rewrap import rewrap

__all__ = ["Ranks", "rewrap"]
