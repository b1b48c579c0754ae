"""Deterministic samplers that remember: exponential integrators and Adams methods beyond the first ones."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level
from aquatint.diffusion.steps import Step, drift, move, solved, weighted

History = list[tuple[float, Latents]]  # where (lambda, or sigma / alpha) and what (x0, or eps), newest first


def unipc(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    order: float = 3,
    bh: float = 2,
) -> Iterator[Step]:
    """UniPC: an exponential multistep predictor, and a corrector that costs no further call (Zhao et al. 2023).

    order is that of the predictor, 1 to 3, reached step by step and left again at the end; bh is the paper's B(h):
    1 for h, 2 for exp(h) - 1.
    """
    if order not in (1, 2, 3) or bh not in (1, 2):
        raise UserError(f"order {order:g}, bh {bh:g}.", "An order of 1, 2 or 3, and bh 1 or 2.", "")
    total, used = len(levels) - 1, 0
    history: History = []
    before: tuple[Level, Latents] | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        if before is not None:
            x = _unified(before[1], before[0], here, history, used, bh, x0)
        history = [(float(here.lam), x0), *history[:2]] if here.alpha > 0 else []
        before = (here, x) if history else None
        used = min(int(order), len(history), total - index)
        x = (
            _unified(x, here, there, history, used, bh, None)
            if used > 1 and there.sigma > 0
            else drift(x, x0, here, there)
        )
        yield Step(index, total, there, x, x0)


def deis(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, order: float = 3) -> Iterator[Step]:
    """DEIS: the polynomial in log(sigma / alpha) through the last eps, integrated over the step exactly.

    Zhang and Chen 2023, the logarithmic-rho variant that Stable Diffusion programs use; order is 1 to 3, reached step
    by step and left again at the end.
    """
    if order not in (1, 2, 3):
        raise UserError(f"order {order:g}.", "1, 2 or 3.", "")
    total = len(levels) - 1
    history: History = []
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        history = [(float(here.ratio), eps), *history[:2]] if here.alpha > 0 else []
        past = history[: int(order)]
        if len(past) > 1 and there.sigma > 0:
            weights = [_mean(past, node, float(here.ratio), float(there.ratio)) for node, _ in past]
            x = move(x, weighted(weights, [value for _, value in past]), here, there)
        else:
            x = there.mix(x0, eps)
        yield Step(index, total, there, x, x0)


def gradient_estimation(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, gamma: float = 2.0
) -> Iterator[Step]:
    """Euler's step along gamma eps + (1 - gamma) eps_before (Permenter and Yuan 2024); gamma 1 is Euler."""
    if not 0 <= gamma <= 10:
        raise UserError(f"gamma {gamma}.", "It takes 0 to 10; 2 is the paper's.", "")
    past: Latents | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        if past is None or there.sigma == 0:
            x = there.mix(x0, eps)
        else:
            x = move(x, weighted((gamma, 1 - gamma), (eps, past)), here, there)
        past = eps if here.alpha > 0 else None
        yield Step(index, len(levels) - 1, there, x, x0)


def _unified(
    x: Latents, here: Level, there: Level, history: History, order: int, bh: float, seen: Latents | None
) -> Latents:
    """UniPC's step of an order from x at `here`, whose newest x0 leads the history.

    Without `seen` it predicts, from the order's x0; with x0 as seen at `there` it corrects, from one more.
    """
    h = float(there.lam - here.lam)
    newest = history[0][1]
    nodes = [(lam - float(here.lam)) / h for lam, _ in history[1:order]]
    changes = [(value - newest) / node for (_, value), node in zip(history[1:order], nodes, strict=True)]
    if seen is not None:
        nodes, changes = [*nodes, 1.0], [*changes, seen - newest]
    x = drift(x, newest, here, there)
    if not changes:
        return x
    scale = -h if bh == 1 else math.expm1(-h)
    weights = [0.5] if len(nodes) == 1 else _solved(nodes, -h, scale)
    return x - there.alpha * scale * weighted(weights, changes)


def _solved(nodes: Sequence[float], z: float, scale: float) -> list[float]:
    """The weights with sum of weight * node^k = k! phi_(k+1)(z) z / scale for k = 1 ... (UniPC's equation 5)."""
    size = len(nodes)
    phi, factorial, right = math.expm1(z) / z - 1, 1.0, []
    for k in range(1, size + 1):
        right.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / z - 1 / factorial
    rows = [[node**k for node in nodes] + [right[k]] for k in range(size)]
    return solved(rows)


def _mean(past: History, node: float, start: float, end: float) -> float:
    """The mean from start to end of the Lagrange polynomial in log(ratio) that is 1 at `node` and 0 at the others."""
    others = [other for other, _ in past if other != node]
    origin = math.log(start)
    scale = math.prod(math.log(node) - math.log(other) for other in others)
    shifts = [math.log(other) - origin for other in others]
    powers = [-shifts[0], 1.0] if len(shifts) == 1 else [shifts[0] * shifts[1], -(shifts[0] + shifts[1]), 1.0]
    whole = sum(power * (_moment(k, end, origin) - _moment(k, start, origin)) for k, power in enumerate(powers))
    return whole / scale / (end - start)


def _moment(k: int, ratio: float, origin: float) -> float:
    """The integral of (log(ratio) - origin)^k over ratio, from 0."""
    if ratio == 0:
        return 0.0
    u = math.log(ratio) - origin
    return ratio * (1.0, u - 1, u * u - 2 * u + 2)[k]
