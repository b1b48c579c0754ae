"""Random numbers as a function: value = f(seed, picture, step, draw, position), the same bits everywhere.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter into four random 32-bit words. There is no generator to advance, so a picture's noise cannot depend on the
batch it is in, on what was drawn before it, or on the device.

Where each part goes (every field has its own bits and is checked, so no two draws can meet by wrapping round):

    key      seed                       64 bits
    counter  position / 4               24 bits    four words a block: 67,108,864 numbers a row and draw
             draw                        8 bits    the constants below
             step                       32 bits
             picture                    64 bits

Normal deviates come from the inverse of the normal distribution function, computed in float64 with nothing but
+ - * / and sqrt, which IEEE 754 rounds in one way only, and rounded to float32 once at the end. Libraries differ in
the last bits of log, cos and exp (between CPU and CUDA, AVX2 and AVX-512, one release and the next); these cannot.
Each operation is a torch call of its own: compiled together, a product and a sum may be contracted to one rounding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aquatint.base.errors import UserError

# What a draw is for. Two uses never share a number, for then they would share a stream; new ones go at the end, for
# every number is part of what a seed means.
PRIOR = 0  # the latents that sampling starts from
STEP = 1  # fresh noise within a sampler's step
POSTERIOR = 2  # drawing a latent from the autoencoder's posterior
TIME = 3  # levels of a training batch
EPS = 4  # the noise that a training batch is mixed with
CAPTION = 5  # caption dropout and choice of template
CROP = 6  # crops and flips of training pictures
OFFSET = 7  # offset and multi-resolution noise
WEIGHTS = 8  # initial weights
MIDSTEP = 9  # fresh noise of a step's second part
CHOICE = 10  # what chance chooses in a prompt
FILL = 11  # what a masked part begins from
LATE = 12  # fresh noise of a step's third part
INPUT = 13  # what a training batch's noise is perturbed by
HOLE = 14  # what is torn out of a training picture
RESAMPLE = 15  # which pictures an interval's resamples take, and which captions stand beside the right one
ORDER = 16  # the order of samples
MERGE = 17  # which pixels others are merged into

WORD = 0xFFFFFFFF
BLOCKS = 1 << 24
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # the paper's, as are ROUNDS and WEYL
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as 32-bit fractions
ROUNDS = 10


class Noise:
    """Random numbers for a batch: row i is a function of (seeds[i], pictures[i]) and of what is asked for, only.

    seeds     one for each row, 0 <= seed < 2**64; all 64 bits count
    pictures  one for each row, 0 <= picture < 2**64: tells apart what shares a seed (samples of a training run);
              0 everywhere if not given
    Raises UserError for a number out of range.
    """

    def __init__(self, seeds: Sequence[int], pictures: Sequence[int] | None = None) -> None:
        self.seeds = tuple(_word64("seed", seed) for seed in seeds)
        self.pictures = (0,) * len(self.seeds) if pictures is None else tuple(_word64("picture", p) for p in pictures)
        assert len(self.seeds) == len(self.pictures), f"{len(self.seeds)} seeds, {len(self.pictures)} pictures"

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, rows: slice) -> "Noise":
        return Noise(self.seeds[rows], self.pictures[rows])

    def normal(
        self, shape: tuple[int, ...], *, step: int = 0, draw: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard normal deviates, float32 [b, *shape]; 32 random bits each, so |z| <= 6.34."""
        return normal_quantile(self._words(shape, step, draw, _able(device))).float().to(device or "cpu")

    def over(self, low: float, high: float) -> "Noise":
        """The noise of a walk whose levels have ratios in [low, high]; ours is the same for every walk."""
        return self

    def change(
        self,
        shape: tuple[int, ...],
        start: float,
        goal: float,
        *,
        step: int = 0,
        draw: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """How a Brownian path over sigma / alpha changes from `start` down to `goal`, over the root of that distance.

        That is standard normal, float32 [b, *shape]; ours is a draw of its own, whatever the two are.
        """
        return self.normal(shape, step=step, draw=draw, device=device)

    def uniform(
        self, shape: tuple[int, ...], *, step: int = 0, draw: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniform deviates in [0, 1), float32 [b, *shape]: multiples of 2**-24, all of which float32 holds."""
        return (self._words(shape, step, draw, _able(device)) >> 8).float().mul(2.0**-24).to(device or "cpu")

    def integers(
        self,
        shape: tuple[int, ...],
        high: int,
        *,
        step: int = 0,
        draw: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Integers in [0, high), int64 [b, *shape]; some are likelier than others by at most high / 2**32."""
        assert 0 < high <= 1 << 31, f"high = {high}"
        return ((self._words(shape, step, draw, _able(device)) * high) >> 32).to(device or "cpu")

    def _words(self, shape: tuple[int, ...], step: int, draw: int, device: torch.device) -> Tensor:
        """Random 32-bit words as int64 [b, *shape]."""
        size = 1
        for length in shape:
            size *= length
        blocks = (size + 3) // 4
        assert blocks <= BLOCKS, f"{size} numbers in one draw; {4 * BLOCKS} is the most"
        assert 0 <= step <= WORD, f"step = {step}"
        assert 0 <= draw < 1 << 8, f"draw = {draw}"
        position = torch.arange(blocks, device=device) | draw << 24
        halves = [(s & WORD, s >> 32, p & WORD, p >> 32) for s, p in zip(self.seeds, self.pictures, strict=True)]
        rows = torch.tensor(halves, dtype=torch.int64).reshape(-1, 4, 1).to(device)
        counter = (position, torch.full_like(position, step), rows[:, 2], rows[:, 3])
        words = torch.stack(philox(counter, (rows[:, 0], rows[:, 1])), dim=-1)
        return words.reshape(len(self), 4 * blocks)[:, :size].reshape(len(self), *shape)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10: four random 32-bit words for each counter and key, which are 32-bit words too.

    All are int64, broadcast against each other. A product of two 32-bit words needs 64 bits, and may come out
    negative in an int64; two's complement keeps its bits, and the masks take them out again.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) & WORD ^ c1 ^ k0, p1 & WORD, (p0 >> 32) & WORD ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


# Wichura's coefficients, lowest power first: numerator and denominator for the middle and for the tails.
MIDDLE = (
    (3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
TAIL = (
    (1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
     1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip


def normal_quantile(words: Tensor) -> Tensor:
    """z with Phi(z) = (word + 1/2) / 2**32, in float64, for 32-bit words held as int64.

    Wichura's algorithm AS 241, PPND16 (Applied Statistics 37, 1988), good to 16 digits. Its third branch begins at
    probability exp(-25) = 1.4e-11; half a 32-bit step is 1.2e-10, so two branches are enough.
    """
    p = (words.double() + 0.5) * 2.0**-32
    q = p - 0.5
    middle = 0.180625 - q * q
    tail = torch.sqrt(-logarithm(torch.minimum(p, 1.0 - p))) - 1.6
    return torch.where(middle >= 0, q * _quotient(middle, MIDDLE), torch.sign(q) * _quotient(tail, TAIL))


def logarithm(x: Tensor) -> Tensor:
    """ln x for positive float64, from exact steps and + - * / alone, so that it has the same bits everywhere.

    x = m * 2**e with 1/2 <= m < 1, and ln m = ln sqrt(1/2) + 2 atanh(s) with s = (m - c) / (m + c), c = sqrt(1/2).
    |s| <= 0.172, so that eleven terms of atanh's series leave less than 1e-18.
    """
    mantissa, exponent = torch.frexp(x)
    c, ln2 = 0.70710678118654752440, 0.69314718055994530942
    s = (mantissa - c) / (mantissa + c)
    series = _polynomial(s * s, tuple(2.0 / (2 * k + 1) for k in range(11)))
    return (exponent.double() - 0.5) * ln2 + s * series


def _quotient(x: Tensor, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    return _polynomial(x, coefficients[0]) / _polynomial(x, coefficients[1])


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule; coefficients with the lowest power first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _able(device: torch.device | str | None) -> torch.device:
    """Where to compute: the device asked for, or the CPU if that may lack float64 (mps, xpu); the bits are the same."""
    device = torch.device(device or "cpu")
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def _word64(kind: str, value: int) -> int:
    if not 0 <= value < 1 << 64:
        raise UserError(f"{kind} {value} is out of range.", f"A {kind} is a whole number from 0 to {2**64 - 1}.", "")
    return value
