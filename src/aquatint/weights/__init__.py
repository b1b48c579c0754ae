"""Files <-> nets: formats, key maps, the hub, and the carried model."""

from aquatint.weights.open import Opened, inspect, open_model
from aquatint.weights.plan import Plan
from aquatint.weights.save import save

__all__ = ["Opened", "Plan", "inspect", "open_model", "save"]
