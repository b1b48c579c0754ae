"""Whole trajectories in float64 against the same methods written anew from the papers, in other variables.

The references work on k-diffusion's y = x / alpha and its sigma, which is our sigma / alpha, or on alpha-bar; they take
their levels from a table of their own, and share no line with the package.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.diffusion.mixture import SIGNAL, Mixture
from torch import Tensor

from aquatint.base.noise import MIDSTEP, STEP, Noise
from aquatint.diffusion.denoisers import Conditioning, predictor
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
NOISE = Noise([11, 2**63 + 5])
X = NOISE.normal((4, 8, 8)).double()
SIGMAS = ((1 - SIGNAL) / SIGNAL) ** 0.5

Model = Callable[[Tensor, float], Tensor]  # x in alpha, sigma form and a time -> x0, in float64


def fresh(step: int) -> Tensor:
    return NOISE.normal((4, 8, 8), step=step, draw=STEP).double()


# Times and sigmas of each grid, by the formula.


def leading(n: int) -> tuple[list[float], list[float]]:
    times = [t * (1000 // n) + 1 for t in range(n)][::-1] + [0]
    return times, [SIGMAS[t] for t in times]


def linspace(n: int) -> tuple[list[float], list[float]]:
    times = np.linspace(0, 999, n)[::-1]
    return [*times, 0.0], [*np.exp(np.interp(times, np.arange(1000), np.log(SIGMAS))), 0.0]


def karras(n: int) -> tuple[list[float], list[float]]:
    ends = SIGMAS[-1] ** (1 / 7), SIGMAS[0] ** (1 / 7)
    sigmas = np.linspace(*ends, n) ** 7
    return [*np.interp(np.log(sigmas), np.log(SIGMAS), np.arange(1000)), 0.0], [*sigmas, 0.0]


# The methods, as each paper or program puts them.


def k_model(model: Model, y: Tensor, t: float, sigma: float) -> Tensor:
    return model(y / (1 + sigma**2) ** 0.5, t)


def euler(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        d = (y - k_model(model, y, ts[i], sigmas[i])) / sigmas[i]
        y = y + d * (sigmas[i + 1] - sigmas[i])
    return y


def euler_a(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        s, n = sigmas[i], sigmas[i + 1]
        up = min(n, (n**2 * (s**2 - n**2) / s**2) ** 0.5)
        down = (n**2 - up**2) ** 0.5
        d = (y - k_model(model, y, ts[i], s)) / s
        y = y + d * (down - s) + fresh(i) * up
    return y


def heun(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        dt = sigmas[i + 1] - sigmas[i]
        d = (y - k_model(model, y, ts[i], sigmas[i])) / sigmas[i]
        if sigmas[i + 1] > 0:
            z = y + d * dt
            d = (d + (z - k_model(model, z, ts[i + 1], sigmas[i + 1])) / sigmas[i + 1]) / 2
        y = y + d * dt
    return y


def lms(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    slopes: list[Tensor] = []
    for i in range(len(ts) - 1):
        slopes = [*slopes, (y - k_model(model, y, ts[i], sigmas[i])) / sigmas[i]][-4:]
        first = i + 1 - len(slopes)
        for j, slope in enumerate(slopes):
            others = [sigmas[first + k] for k in range(len(slopes)) if k != j]
            basis = np.poly1d(others, r=True) / math.prod(sigmas[first + j] - other for other in others)
            whole = basis.integ()
            y = y + (whole(sigmas[i + 1]) - whole(sigmas[i])) * slope
    return y


def dpmpp_2m(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    old = None
    for i in range(len(ts) - 1):
        x0 = k_model(model, y, ts[i], sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        t, t_next = -math.log(sigmas[i]), -math.log(sigmas[i + 1])
        h, guess = t_next - t, x0
        if old is not None:
            r = (t + math.log(sigmas[i - 1])) / h
            guess = (1 + 1 / (2 * r)) * x0 - old / (2 * r)
        y = sigmas[i + 1] / sigmas[i] * y - math.expm1(-h) * guess
        old = x0
    return y


def time_of(sigma: float) -> float:
    return float(np.interp(math.log(sigma), np.log(SIGMAS), np.arange(1000)))


def up_and_down(s: float, n: float) -> tuple[float, float]:
    up = min(n, (n**2 * (s**2 - n**2) / s**2) ** 0.5)
    return up, (n**2 - up**2) ** 0.5


def dpm_2_a(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        s, (up, down) = sigmas[i], up_and_down(sigmas[i], sigmas[i + 1])
        d = (y - k_model(model, y, ts[i], s)) / s
        if down > 0:
            middle = math.exp((math.log(s) + math.log(down)) / 2)
            z = y + d * (middle - s)
            d = (z - k_model(model, z, time_of(middle), middle)) / middle
        y = y + d * (down - s) + fresh(i) * up
    return y


def dpmpp_2s_a(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        s, (up, down) = sigmas[i], up_and_down(sigmas[i], sigmas[i + 1])
        x0 = k_model(model, y, ts[i], s)
        if down > 0:
            h = math.log(s) - math.log(down)
            middle = math.exp(math.log(s) - h / 2)
            z = middle / s * y - math.expm1(-h / 2) * x0
            y = down / s * y - math.expm1(-h) * k_model(model, z, time_of(middle), middle)
        else:
            y = x0
        y = y + fresh(i) * up
    return y


def dpmpp_sde(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        s, n = sigmas[i], sigmas[i + 1]
        x0 = k_model(model, y, ts[i], s)
        if n == 0:
            return x0
        middle = math.exp((math.log(s) + math.log(n)) / 2)
        first, second = fresh(i), NOISE.normal((4, 8, 8), step=i, draw=MIDSTEP).double()
        walk = (s - middle) ** 0.5 * first + (middle - n) ** 0.5 * second  # Brownian, from s to n
        up, down = up_and_down(s, middle)
        z = down / s * y + (1 - down / s) * x0 + up * first
        guess = k_model(model, z, time_of(middle), middle)
        up, down = up_and_down(s, n)
        y = down / s * y + (1 - down / s) * guess + up * walk / (s - n) ** 0.5
    return y


def dpmpp_3m_sde(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """The line or parabola through the last x0, its square term halved, against the SDE's weight by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    old: list[tuple[float, Tensor]] = []
    for i in range(len(ts) - 1):
        x0 = k_model(model, y, ts[i], sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        t = -math.log(sigmas[i])
        h = -math.log(sigmas[i + 1]) - t
        old = [(t, x0), *old[:2]]
        rows = np.array([[(place - t) ** k for k in range(len(old))] for place, _ in old])
        moments = [float(np.sum(weights * h * np.exp(-h * (1 - nodes)) * (h * (nodes + 1) / 2) ** k)) for k in range(3)]
        moments[2] /= 2
        shares = np.linalg.solve(rows.T, moments[: len(old)])
        y = math.exp(-2 * h) * y + sum(float(share) * value for share, (_, value) in zip(shares, old, strict=True))
        y = y + sigmas[i + 1] * math.sqrt(-math.expm1(-2 * h)) * fresh(i)
    return y


def ipndm(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    slopes: list[Tensor] = []
    for i in range(len(ts) - 1):
        x0 = k_model(model, y, ts[i], sigmas[i])
        slopes = [*slopes, (y - x0) / sigmas[i]][-4:]
        if sigmas[i + 1] == 0:
            return x0
        y = y + (sigmas[i + 1] - sigmas[i]) * (slopes[0] if len(slopes) == 1 else adams(slopes))
    return y


def deis(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """The polynomial in log(sigma) through the last three slopes, integrated over sigma by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    slopes: list[tuple[float, Tensor]] = []
    for i in range(len(ts) - 1):
        x0, (s, n) = k_model(model, y, ts[i], sigmas[i]), sigmas[i : i + 2]
        if n == 0:
            return x0
        slopes = [(math.log(s), (y - x0) / s), *slopes[:2]]
        points = np.log((s + n) / 2 + (n - s) / 2 * nodes)
        rows = np.array([[place**k for k in range(len(slopes))] for place, _ in slopes])
        moments = [float(np.sum(weights * (n - s) / 2 * points**k)) for k in range(len(slopes))]
        shares = np.linalg.solve(rows.T, moments)
        y = y + sum(float(share) * slope for share, (_, slope) in zip(shares, slopes, strict=True))
    return y


def gradient_estimation(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    before = None
    for i in range(len(ts) - 1):
        x0 = k_model(model, y, ts[i], sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        d = (y - x0) / sigmas[i]
        y = y + (sigmas[i + 1] - sigmas[i]) * (d if before is None else d + (2 - 1) * (d - before))
        before = d
    return y


def res_multistep(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """Exponential Adams and Bashforth: phi_1 and phi_2 of -h (Hochbruck and Ostermann 2010, section 2.7)."""
    before = None
    for i in range(len(ts) - 1):
        x0 = k_model(model, y, ts[i], sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        h = math.log(sigmas[i]) - math.log(sigmas[i + 1])
        one = math.expm1(-h) / -h
        two = (one - 1) / -h
        y = math.exp(-h) * y + h * one * x0
        if before is not None:
            y = y + h * two * h / (math.log(sigmas[i - 1]) - math.log(sigmas[i])) * (x0 - before)
        before = x0
    return y


def er_sde(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """Cui et al. 2023, algorithm 3 (VE form), with integrals of 1 / phi by 200 points."""

    def phi(s: float) -> float:
        return s * (math.exp(s**0.3) + 10)

    values: list[Tensor] = []
    slopes: list[Tensor] = []
    for i in range(len(ts) - 1):
        s, n = sigmas[i], sigmas[i + 1]
        values.append(k_model(model, y, ts[i], s))
        if n == 0:
            return values[-1]
        kept, width = phi(n) / phi(s), (s - n) / 200
        places = [n + (k + 0.5) * width for k in range(200)]
        y = kept * y + (1 - kept) * values[-1]
        if i > 0:
            slopes.append((values[-1] - values[-2]) / (s - sigmas[i - 1]))
            y = y + (n - s + width * phi(n) * sum(1 / phi(p) for p in places)) * slopes[-1]
        if i > 1:
            bend = (slopes[-1] - slopes[-2]) / ((s - sigmas[i - 2]) / 2)
            y = y + ((n - s) ** 2 / 2 + width * phi(n) * sum((p - s) / phi(p) for p in places)) * bend
        y = y + max(n**2 - s**2 * kept**2, 0) ** 0.5 * fresh(i)
    return y


def epsilon(model: Model, x: Tensor, t: int) -> Tensor:
    return (x - SIGNAL[t] ** 0.5 * model(x, t)) / (1 - SIGNAL[t]) ** 0.5


def ddim(model: Model, x: Tensor, n: int, eta: float) -> Tensor:
    """Song et al. 2021, equations 12 and 16."""
    times = leading(n)[0]
    for i, (t, s) in enumerate(pairwise(times)):
        e, at, as_ = epsilon(model, x, t), SIGNAL[t], SIGNAL[s]
        sigma = eta * ((1 - as_) / (1 - at)) ** 0.5 * (1 - at / as_) ** 0.5
        x = as_**0.5 * (x - (1 - at) ** 0.5 * e) / at**0.5 + (1 - as_ - sigma**2) ** 0.5 * e + sigma * fresh(i)
    return x


def transfer(x: Tensor, e: Tensor, t: int, s: int) -> Tensor:
    """Liu et al. 2022, the transfer part, in alpha-bar as they write it."""
    at, as_ = SIGNAL[t], SIGNAL[s]
    root = at**0.5 * (((1 - as_) * at) ** 0.5 + ((1 - at) * as_) ** 0.5)
    return as_**0.5 / at**0.5 * x - (as_ - at) / root * e


def adams(old: list[Tensor]) -> Tensor:
    a, b, c, d = ([*old[::-1]] + [torch.zeros_like(old[0])] * 3)[:4]
    return {
        2: (3 * a - b) / 2,
        3: (23 * a - 16 * b + 5 * c) / 12,
        4: (55 * a - 59 * b + 37 * c - 9 * d) / 24,
    }[len(old)]


def plms(model: Model, x: Tensor, n: int) -> Tensor:
    times, old = leading(n)[0], []
    for t, s in pairwise(times):
        old = [*old, epsilon(model, x, t)][-4:]
        slope = (old[0] + epsilon(model, transfer(x, old[0], t, s), s)) / 2 if len(old) == 1 else adams(old)
        x = transfer(x, slope, t, s)
    return x


def pndm(model: Model, x: Tensor, n: int) -> Tensor:
    times, old = leading(n)[0], []
    for t, s in pairwise(times):
        old = [*old, epsilon(model, x, t)][-4:]
        if len(old) <= 3:
            middle = (t + s) // 2
            e1 = old[-1]
            e2 = epsilon(model, transfer(x, e1, t, middle), middle)
            e3 = epsilon(model, transfer(x, e2, t, middle), middle)
            e4 = epsilon(model, transfer(x, e3, t, s), s)
            slope = e1 / 6 + e2 / 3 + e3 / 3 + e4 / 6
        else:
            slope = adams(old)
        x = transfer(x, slope, t, s)
    return x


def cases() -> Iterator[tuple[str, str, dict[str, float], str, Callable[[Model, int], Tensor]]]:
    """Sampler, grid, options, what the net says, and the reference from the unit noise X to the last x."""
    late = (dpm_2_a, dpmpp_2s_a, dpmpp_sde, dpmpp_3m_sde, ipndm, deis, gradient_estimation, res_multistep, er_sde)
    for method in (euler, euler_a, heun, lms, dpmpp_2m, *late):
        # between whole times a net is told t in float32, which eps and v would carry into x0
        for grid, prediction in ((linspace, "sample"), (karras, "sample"), (leading, "epsilon"), (leading, "v")):
            if method in late and grid is leading:
                continue

            def whole(model: Model, n: int, method: Callable = method, grid: Callable = grid) -> Tensor:
                times, sigmas = grid(n)
                return method(model, X * (1 + sigmas[0] ** 2) ** 0.5, times, sigmas) / (1 + sigmas[-1] ** 2) ** 0.5

            yield method.__name__, grid.__name__, {}, prediction, whole
    for prediction in ("epsilon", "v"):
        for eta in (0.0, 0.4, 1.0):
            yield "ddim", "leading", {"eta": eta}, prediction, lambda model, n, eta=eta: ddim(model, X, n, eta)
        yield "plms", "leading", {}, prediction, lambda model, n: plms(model, X, n)
        yield "pndm", "leading", {}, prediction, lambda model, n: pndm(model, X, n)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    ("name", "grid", "options", "prediction", "reference"),
    [pytest.param(*case, id="-".join(map(str, case[:4]))) for case in cases()],
)
def test_equal_to_algebra(name, grid, options, prediction, reference, steps):
    net, truth = Mixture(prediction), Mixture("sample")
    levels = GRIDS[grid](SCHEDULE, steps)
    denoise = predictor(net, PREDICTIONS[prediction], Conditioning(torch.zeros(2, 1, 1)))
    *_, last = SAMPLERS[name](denoise, SCHEDULE.prior(levels[0], X), levels, NOISE, schedule=SCHEDULE, **options)

    def model(x: Tensor, t: float) -> Tensor:
        return truth.x0(x, *truth.level(float(np.float32(t))))  # a net is told its time in float32

    expected = reference(model, steps)
    assert last.x.dtype == torch.float64
    assert expected.std() > 0.5
    assert (last.x - expected).abs().max() / expected.std() < 1e-9
