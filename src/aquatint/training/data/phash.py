"""Pictures that look alike: a hash of 64 bits that survives resizing and compression, and a search among them.

The hash is the DCT hash of Zauner ("Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section
3.2.1): grey, 32 x 32 pixels, the cosine transform's coefficients of frequencies 1 to 8 both ways, one bit each: whether
it is above their median. The paper's mean of 7 x 7 pixels before the shrinking is left out, for shrinking is a mean as
well, and so a picture and its reduction are smoothed alike.
"""

from itertools import pairwise

import numpy as np
from PIL import Image

from aquatint.base.errors import UserError

SIDE, KEPT = 32, 8
FLAT = 1.0  # grey levels: coefficients below it say nothing, and a picture of only such has no hash
MOST = 12  # bits that two may differ by
_places = np.arange(SIDE)
_COSINES = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * _places[None] + 1) * np.arange(1, KEPT + 1)[:, None] / (2 * SIDE))


def phash(picture: Image.Image) -> int:
    """The hash, 64 bits; 0 for a picture without anything to tell it by (a plain colour)."""
    grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    found = np.round(_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T, 4)
    if np.abs(found).max() < FLAT:
        return 0
    bits = (found > np.median(found)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Alike:
    """Hashes seen so far, and which of them differ from a new one by few bits.

    most   how many bits may differ. The 64 bits are cut into most + 1 bands; two hashes that differ in at most `most`
           bits have a band in common (Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling", 2007),
           so only those that share one are compared: of n hashes about (most + 1) * n / 2 ** (64 / (most + 1)).
    """

    def __init__(self, most: int) -> None:
        if not 0 <= most <= MOST:
            raise UserError(f"near = {most}.", f"Bits that may differ, 0 to {MOST}; -1 does not look.")
        self.most = most
        edges = [64 * band // (most + 1) for band in range(most + 2)]
        self._cuts = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._bands: list[dict[int, list[tuple[int, int]]]] = [{} for _ in self._cuts]

    def add(self, value: int, number: int) -> None:
        """Remember a hash under a number; 0, which is no hash, is not."""
        if value:
            entry = (value, number)
            for (low, mask), band in zip(self._cuts, self._bands, strict=True):
                band.setdefault(value >> low & mask, []).append(entry)

    def find(self, value: int) -> int | None:
        """The smallest number whose hash differs in at most `most` bits; None if there is none."""
        if not value:
            return None
        found = [
            number
            for (low, mask), band in zip(self._cuts, self._bands, strict=True)
            for other, number in band.get(value >> low & mask, ())
            if (value ^ other).bit_count() <= self.most
        ]
        return min(found, default=None)
