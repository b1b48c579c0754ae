"""The comparison's sums: ratios, goals, floors, exponents, and how processes are asked. No peer is needed."""

import io
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.growth import Point, slope, table
from benchmarks.peers import sides
from benchmarks.peers.report import Measured, best, goal, ratio, ratios, tables
from benchmarks.peers.sides import FIRST, PEAK, READY, Pair, Plan
from benchmarks.peers.with_sdcpp import Painter
from benchmarks.peers.worker import Asked, levels, serve

from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import SD15


def pairs(peer: str, piece: str, size: int, *rounds: tuple[float, float]) -> list[Pair]:
    return [Pair(peer, size, piece, ours, theirs) for ours, theirs in rounds]


def asked(folder: Path) -> Asked:
    return Asked(folder, 64, 1, 20, (), io.StringIO())


def test_ratios_are_taken_round_by_round() -> None:
    found = ratio(pairs("OpenVINO", "decode", 512, (2.0, 3.0), (1.0, 2.0), (4.0, 4.0)))
    assert (found.ours, found.theirs) == (2.0, 3.0)
    assert (found.middle, found.least, found.most) == (1.5, 1.0, 2.0)
    assert str(found) == "1.50 (1.00 .. 2.00)"


def test_the_best_peer_is_the_hardest_one() -> None:
    rows = ratios(
        pairs("diffusers", "guided step", 512, (1.0, 2.0))
        + pairs("OpenVINO", "guided step", 512, (2.0, 2.6))
        + pairs("OpenVINO", "picture", 256, (1.0, 1.0))
    )
    assert list(rows) == [("picture", 256), ("guided step", 512)]
    assert best(rows["guided step", 512]).peer == "OpenVINO"
    assert goal(("guided step", 512), rows["guided step", 512], 4.0)[1] == "no"  # 1.3 where 1.45 is wanted
    assert goal(("guided step", 512), {"diffusers": rows["guided step", 512]["diffusers"]}, 4.0)[1] == "yes"
    assert goal(("picture", 256), rows["picture", 256], 4.0) == ("", "")
    low, high = ({"diffusers": ratio(pairs("diffusers", PEAK, 512, (gib, 9.0)))} for gib in (5.3, 5.5))
    assert [goal((PEAK, 512), one, 4.0)[1] for one in (low, high)] == ["yes", "no"]  # weights + 1.5 GB = 5.397 GiB
    assert goal((READY, 256), {"diffusers": ratio(pairs("diffusers", READY, 256, (4.1, 9.0)))}, 4.0)[1] == "no"


def test_the_table_has_floors_and_names_who_failed() -> None:
    rounds = pairs("OpenVINO", "decode", 512, (20.0, 50.0)) + pairs("diffusers", "text", 256, (1.0, 2.0))
    text = tables(Measured(rounds, {"decode 512": 100.0}, 10.0, 4.0, {"ONNX Runtime": "no wheel"}, {"OpenVINO": 2e-6}))
    decode = next(line for line in text.splitlines() if line.startswith("| decode | 512"))
    assert "| 2.5 x the best | 20 s | OpenVINO | 50 s | 2.50 (2.50 .. 2.50) | yes | 10 | 50 % |" in decode
    assert "| decode, 512 | 50 s, 2.50 (2.50 .. 2.50) |  |" in text
    assert "- ONNX Runtime failed: no wheel" in text
    assert "- OpenVINO is 2.0e-06 (rms, relative) from our numbers." in text


def test_runs_are_put_together(tmp_path: Path) -> None:
    first = Measured(
        pairs("OpenVINO", "decode", 512, (1.0, 2.0)) + pairs("diffusers", "text", 256, (1.0, 3.0)),
        {"decode 512": 1.0}, 10.0, 4.0, {"OpenVINO": "ended", "ONNX Runtime": "no wheel"}, {"diffusers": 1e-6},
        {"threads": 2}, ["first"],
    )  # fmt: skip
    again = Measured(pairs("OpenVINO", "decode", 512, (5.0, 7.0)), {"decode 256": 2.0}, 9.0, 4.0, commands=["again"])
    both = again.after(first)
    assert [(pair.peer, pair.theirs) for pair in both.pairs] == [("diffusers", 3.0), ("OpenVINO", 7.0)]
    assert (both.rate, both.failed, both.off) == (10.0, {"ONNX Runtime": "no wheel"}, {"diffusers": 1e-6})
    assert (both.flop, both.commands) == ({"decode 512": 1.0, "decode 256": 2.0}, ["first", "again"])
    first.save(tmp_path / "record.json")
    assert Measured.load(tmp_path / "record.json") == first


def test_slopes() -> None:
    xs = [1.0, 2.0, 8.0, 64.0]
    assert slope(xs, [3 * x**1.5 for x in xs]) == pytest.approx(1.5)
    assert slope(xs, [5.0] * 4) == pytest.approx(0.0)
    assert slope(xs, [100 + x**2 for x in xs]) < 1  # a fixed cost bends the line down,
    assert slope(xs[-2:], [1e-3 + x**2 for x in xs[-2:]]) == pytest.approx(2.0, abs=1e-3)  # less so at its end


def test_a_curve_that_grows_too_fast_is_told() -> None:
    fast = [Point(x, x**1.5, 1.0) for x in (1.0, 10.0, 100.0)]
    fine = [Point(x, x, x) for x in (1.0, 10.0, 100.0)]
    text = table({"steps": fine, "batch": fast})
    assert [line.split(" | ")[-3] for line in text.splitlines()[2:4]] == ["yes", "no"]
    assert [line.split(" | ")[-1] for line in text.splitlines()[2:4]] == ["1.00 |", "0.00 |"]
    assert "10: 31.6, 1.00" in text


def test_the_levels_that_peers_without_a_sampler_visit() -> None:
    found = levels(20)
    schedule = NoiseSchedule(SD15.schedule)
    assert len(found) == 21
    assert found[-1][1] == 0.0
    assert all(one > after for (_, one), (_, after) in pairwise(found))
    for when, found_ratio in (found[0], found[-2]):
        assert found_ratio == pytest.approx(schedule.at(when).ratio, rel=1e-6)


def test_how_a_process_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("text\ndecode\ncheck\n"))
    given = asked(tmp_path)
    serve(given, {"text": lambda: None, "decode": lambda: {"decode": 9.5}, "check": lambda: [1.0, 2.0]})
    ready, text, decode, check = given.out.getvalue().splitlines()  # type: ignore[attr-defined]
    assert ready == "ready"
    assert 0 < json.loads(text)["seconds"]["text"] < 1
    assert json.loads(decode)["seconds"] == {"decode": 9.5}
    assert 0.01 < json.loads(decode)["peak"] < 64
    assert json.loads(check) == {"numbers": [1.0, 2.0]}


class Side:
    """A process that needs 2 seconds for everything, or 6 if it is the peer; tells who was asked what, in order."""

    asked: list[str] = []  # noqa: RUF012  of all, in order

    def __init__(self, plan: Plan, name: str, size: int) -> None:
        self.name, self.ready, self.peak = name, 1.0 if name == "aquatint" else 4.0, 0.0

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append(f"end {self.name}")

    def seconds(self, piece: str) -> float:
        self.asked.append(f"{piece} {self.name}")
        self.peak += 1
        return 2.0 if self.name == "aquatint" else 6.0


def test_who_is_asked_what_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "Side", Side)
    monkeypatch.setattr(Side, "asked", [])
    plan = Plan(
        tmp_path, tmp_path, ("p",), (256, 512), ("picture", "encode"), rounds=2, pictures=1, steps=20, threads=1
    )
    found = list(sides.rounds(plan, "p", 512))
    assert [(one.piece, one.ours, one.theirs) for one in found] == [
        ("picture", 2.0, 6.0), (PEAK, 4.0, 4.0), ("encode", 2.0, 6.0), ("encode", 2.0, 6.0),
    ]  # fmt: skip
    assert Side.asked[6:8] == ["picture p", "picture aquatint"]  # after a guided step, text and decoder of both
    assert Side.asked[8:14] == [f"encode {name}" for name in ("aquatint", "p", "p", "aquatint", "aquatint", "p")]
    Side.asked.clear()
    assert list(sides.starts(plan, "p"))[:2] == [Pair("p", 256, READY, 1.0, 4.0), Pair("p", 256, FIRST, 3.0, 10.0)]
    assert Side.asked[::4] == ["guided step p", "guided step aquatint", "guided step p"]  # three, the first not counted


class Model:
    """Says what stable-diffusion.cpp 0.4.7 says, and counts its pictures."""

    def __init__(self, painter: Painter) -> None:
        self.painter, self.painted = painter, 0

    def generate_image(self, *, sample_steps: int, progress_callback, **_):  # type: ignore[no-untyped-def]
        self.painted += 1
        for step in range(sample_steps + 1):
            progress_callback(step, sample_steps, 0.0)
        self.painter.lines += [
            "conditioner.hpp:541  - computing condition graph completed, taking 884 ms\n",
            "stable-diffusion.cpp:3168 - get_learned_condition completed, taking 1.69s\n",
            "vae.hpp:207  - computing vae decode graph completed, taking 98.07s\n",
            "stable-diffusion.cpp:3212 - decode_first_stage completed, taking 98.08s\n",
        ]
        return [SimpleNamespace(save=lambda path: None)]


def test_what_a_log_says_is_told_once(tmp_path: Path) -> None:
    painter = Painter.__new__(Painter)
    painter.asked, painter.lines, painter.told = asked(tmp_path), [], {}
    painter.model = Model(painter)
    work = painter.work()
    assert work["picture"]().keys() == {"picture"}  # type: ignore[attr-defined]
    assert (work["text"](), work["decode"]()) == ({"text": 1.69}, {"decode": 98.08})
    assert 0 < work["guided step"]()["guided step"] < 1  # type: ignore[index]
    assert painter.model.painted == 1
    work["text"]()
    assert painter.model.painted == 2
