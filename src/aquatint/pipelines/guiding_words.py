"""A request's guidance in an infotext: the keys that web UIs write where they have them, our own where they have not.

"Skip Early CFG" is AUTOMATIC1111's, "PAG scale" SD.Next's; freeu_, sag_ and dynthres_ are Forge's.
"""

import math
from collections.abc import Mapping
from typing import Any

from aquatint.base.errors import UserError
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold


def words_of(guiding: Guiding | None) -> dict[str, Any]:
    """Guidance as settings of an infotext, in their order; what is None is not written."""
    how = guiding or Guiding()
    interval, threshold, apg, pag, sag, freeu = how.interval, how.threshold, how.apg, how.pag, how.sag, how.freeu
    words: dict[str, Any] = {}
    if interval is not None:
        words |= {"Skip Early CFG": interval.start or None, "Guidance end": interval.end if interval.end < 1 else None}
    if threshold is not None and threshold.mimic is not None:
        words |= {"dynthres_enabled": True, "dynthres_mimic_scale": threshold.mimic}
        words |= {"dynthres_threshold_percentile": threshold.percentile}
    elif threshold is not None:
        words |= {"Threshold percentile": threshold.percentile, "Threshold limit": threshold.limit}
    if freeu is not None:
        words["freeu_enabled"] = True
        words |= {f"freeu_{name}": getattr(freeu, name) for name in ("b1", "b2", "s1", "s2")}
        words["FreeU Version"] = freeu.version
    if sag is not None:
        words |= {"sag_enabled": True, "sag_scale": sag.scale, "sag_blur_sigma": sag.blur}
    if pag is not None:
        words |= {"PAG scale": pag.scale, "PAG layers": ", ".join(pag.layers) if pag.layers != ("middle",) else None}
    if apg is not None:
        words |= {"APG eta": apg.eta, "APG norm": apg.norm, "APG momentum": apg.momentum}
    return words | {"Perp-Neg": how.perp_neg}


def guiding_from(settings: Mapping[str, str]) -> Guiding | None:
    """The guidance that an infotext's settings stand for; None where they say nothing of it."""

    def number(key: str, usual: float) -> float:
        text = settings.get(key, "")
        try:
            value = float(text) if text else usual
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f'"{text[:40]}" stands where "{key}" should have a number.')
        return value

    found: dict[str, Any] = {}
    if "Skip Early CFG" in settings or "Guidance end" in settings:
        start, end = number("Skip Early CFG", 0.0), number("Guidance end", 1.0)
        found["interval"] = Interval(start, end) if start < 1 else None
    if settings.get("dynthres_enabled") == "True":
        mimic = number("dynthres_mimic_scale", 7.0)
        found["threshold"] = Threshold(number("dynthres_threshold_percentile", 1.0), mimic)
    elif "Threshold percentile" in settings:
        found["threshold"] = Threshold(number("Threshold percentile", 0.995), None, number("Threshold limit", 3.0))
    if settings.get("freeu_enabled") == "True":
        usual = FreeU()
        numbers = {name: number(f"freeu_{name}", getattr(usual, name)) for name in ("b1", "b2", "s1", "s2")}
        found["freeu"] = FreeU(**numbers, version=int(number("FreeU Version", 2)))
    if settings.get("sag_enabled") == "True":
        found["sag"] = Sag(number("sag_scale", 0.75), number("sag_blur_sigma", 1.0))
    if "PAG scale" in settings:
        layers = tuple(part.strip() for part in settings.get("PAG layers", "middle").split(","))
        found["pag"] = Pag(number("PAG scale", 3.0), layers)
    if "APG eta" in settings:
        found["apg"] = Apg(number("APG eta", 0.0), number("APG norm", 0.0), number("APG momentum", 0.0))
    if "Perp-Neg" in settings:
        found["perp_neg"] = number("Perp-Neg", 1.0)
    found = {name: value for name, value in found.items() if value is not None}
    return Guiding(**found) if found else None
