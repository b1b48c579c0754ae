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

from aquatint.base.noise import LATE, MIDSTEP, STEP, Noise
from aquatint.diffusion.denoisers import Conditioning, first, predictor
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule, ScheduleConfig

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


def sa_solver(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """Xue et al. 2023, equations 14 and 17: Lagrange's polynomials integrated by quadrature; noise everywhere."""
    nodes, weights = np.polynomial.legendre.leggauss(40)

    def lagrange(places: list[float], j: int, at: np.ndarray) -> np.ndarray:
        value = np.ones_like(at)
        for k, place in enumerate(places):
            if k != j:
                value = value * (at - place) / (places[j] - place)
        return value

    def step(y: Tensor, s: float, n: float, known: list[tuple[float, Tensor]], tau: float) -> Tensor:
        start, end = -math.log(s), -math.log(n)
        at = start + (end - start) * (nodes + 1) / 2
        weight = weights * (end - start) / 2 * (1 + tau**2) * np.exp((1 + tau**2) * (at - end))
        places = [place for place, _ in known]
        total = math.exp(-(tau**2) * (end - start)) * n / s * y
        return total + sum(float(np.sum(weight * lagrange(places, j, at))) * x0 for j, (_, x0) in enumerate(known))

    low, high = (math.exp(np.interp(t, np.arange(1000), np.log(SIGMAS))) for t in (0.2 * 999, 0.8 * 999))
    last, values, start, new, tau = len(ts) - 1, [], y, 0 * y, 0.0
    for i in range(last):
        x0 = k_model(model, y, ts[i], sigmas[i])
        values = [(-math.log(sigmas[i]), x0), *values]
        if sigmas[i + 1] == 0:
            return x0
        if i > 0:
            y = step(start, sigmas[i - 1], sigmas[i], values[: min(4, last - i)], tau) + new
        start, tau = y, 1.0 if low <= sigmas[i + 1] <= high else 0.0
        new = sigmas[i + 1] * math.sqrt(1 - (sigmas[i + 1] / sigmas[i]) ** (2 * tau**2)) * fresh(i)
        y = step(y, sigmas[i], sigmas[i + 1], values[: min(3, last - 1 - i)], tau) + new
    return y


def seeds_3(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """Gonzalez et al. 2023, algorithm 3 for x0, with the integrals of 1 and of u by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    draws = {STEP: 0.0, MIDSTEP: 1 / 3, LATE: 2 / 3}

    def carried(y: Tensor, s: float, n: float, first: Tensor, slope: Tensor | float) -> Tensor:
        h = math.log(s / n)
        u = h * (nodes + 1) / 2
        weight = weights * h * np.exp(2 * (u - h))
        return (n / s) ** 2 * y + float(np.sum(weight)) * first + float(np.sum(weight * u)) * slope

    for i in range(len(ts) - 1):
        s, n = sigmas[i], sigmas[i + 1]
        x0 = k_model(model, y, ts[i], s)
        if n == 0:
            return x0
        h = math.log(s / n)
        path = {}
        for part in (1 / 3, 2 / 3, 1.0):  # the SDE's noise up to each part, from independent pieces
            path[part] = 0.0
            for draw, begin in draws.items():
                if begin < part - 1e-9:
                    piece = NOISE.normal((4, 8, 8), step=i, draw=draw).double()
                    kept = math.exp(-h * (part - begin - 1 / 3))
                    path[part] = path[part] + kept * (1 - math.exp(-2 * h / 3)) ** 0.5 * piece
        one, two = s * math.exp(-h / 3), s * math.exp(-2 * h / 3)
        x1 = k_model(model, carried(y, s, one, x0, 0.0) + one * path[1 / 3], time_of(one), one)
        x2 = carried(y, s, two, x0, (x1 - x0) / (h / 3)) + two * path[2 / 3]
        x2 = k_model(model, x2, time_of(two), two)
        y = carried(y, s, n, x0, (x2 - x0) / (2 * h / 3)) + n * path[1.0]
    return y


def heunpp2(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    for i in range(len(ts) - 1):
        ahead, slopes, shares = y, [], []
        for k in range(i, min(i + 3, len(ts) - 1)):
            slopes.append((ahead - k_model(model, ahead, ts[k], sigmas[k])) / sigmas[k])
            shares.append(sigmas[k] / sigmas[0])
            ahead = ahead + (sigmas[k + 1] - sigmas[k]) * slopes[-1]
        shares = [share / len(slopes) for share in shares]
        shares[0] = 1 - sum(shares[1:])
        y = y + (sigmas[i + 1] - sigmas[i]) * sum(share * slope for share, slope in zip(shares, slopes, strict=True))
    return y


def res_multistep_a(model: Model, y: Tensor, ts: list[float], sigmas: list[float]) -> Tensor:
    """res_multistep down to a lower level, and new noise; the last step's length is measured to that level."""
    before = None
    for i in range(len(ts) - 1):
        x0, (up, down) = k_model(model, y, ts[i], sigmas[i]), up_and_down(sigmas[i], sigmas[i + 1])
        if sigmas[i + 1] == 0:
            return x0
        h = math.log(sigmas[i]) - math.log(down)
        one = math.expm1(-h) / -h
        two = (one - 1) / -h
        y = math.exp(-h) * y + h * one * x0
        if before is not None:
            y = y + h * two * h / before[0] * (x0 - before[1])
        before = h, x0
        y = y + up * fresh(i)
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
    late += (sa_solver, seeds_3, heunpp2, res_multistep_a)
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


# CFG++ in k-diffusion's y: `two` gives what guidance says and what the negative alone says.

Two = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def dpmpp_2m_cfg_pp(two: Two, y: Tensor, sigmas: list[float]) -> Tensor:
    old = None
    for i in range(len(sigmas) - 1):
        x0, away = two(y, sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        q = sigmas[i + 1] / sigmas[i]
        y = x0 + q * (y - away)
        if old is not None:
            lean = math.log(sigmas[i] / sigmas[i + 1]) / math.log(sigmas[i - 1] / sigmas[i]) / 2
            y = y + (1 - q) * lean * (x0 - old)
        old = away
    return y


def dpmpp_2s_a_cfg_pp(two: Two, y: Tensor, sigmas: list[float]) -> Tensor:
    for i in range(len(sigmas) - 1):
        x0, away = two(y, sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        up, down = up_and_down(sigmas[i], sigmas[i + 1])
        middle = (sigmas[i] * down) ** 0.5
        other = two(away + middle / sigmas[i] * (y - away), middle)[1]
        y = other + down / sigmas[i] * (y - other) + up * fresh(i) + (x0 - away)
    return y


def res_multistep_cfg_pp(two: Two, y: Tensor, sigmas: list[float]) -> Tensor:
    old = None
    for i in range(len(sigmas) - 1):
        x0, away = two(y, sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        h = math.log(sigmas[i] / sigmas[i + 1])
        one = math.expm1(-h) / -h
        if old is None:
            y = x0 + sigmas[i + 1] * (y - away) / sigmas[i]
        else:
            back = -math.log(sigmas[i - 1] / sigmas[i]) / h
            later = (one - 1) / -h / back
            y = math.exp(-h) * (y + x0 - away) + h * ((one - later) * away + later * old)
        old = away
    return y


def gradient_estimation_cfg_pp(two: Two, y: Tensor, sigmas: list[float]) -> Tensor:
    old = None
    for i in range(len(sigmas) - 1):
        x0, away = two(y, sigmas[i])
        if sigmas[i + 1] == 0:
            return x0
        d = (y - away) / sigmas[i]
        y = x0 + d * sigmas[i + 1] + (0 if old is None else (sigmas[i + 1] - sigmas[i]) * (d - old))
        old = d
    return y


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    "reference", [dpmpp_2m_cfg_pp, dpmpp_2s_a_cfg_pp, res_multistep_cfg_pp, gradient_estimation_cfg_pp]
)
def test_cfg_pp_equals_algebra(reference, steps):
    truth = Mixture("sample")
    levels = GRIDS["karras"](SCHEDULE, steps)

    def pair(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        x0 = truth.x0(x, level.alpha, level.sigma)
        return 1.1 * x0, x0

    def two(y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma**2) ** -0.5
        x0 = truth.x0(alpha * y, alpha, alpha * sigma)
        return 1.1 * x0, x0

    x = SCHEDULE.prior(levels[0], X)
    *_, last = SAMPLERS[reference.__name__](first(pair), x, levels, NOISE, schedule=SCHEDULE, pair=pair)
    expected = reference(two, X * (1 + levels[0].ratio ** 2) ** 0.5, [level.ratio for level in levels])
    assert (last.x - expected).abs().max() / expected.std() < 1e-9
