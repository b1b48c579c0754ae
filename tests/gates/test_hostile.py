"""Gates S1, S2, S4 and S5: hostile checkpoints, adapters, embeddings, folders and names, through every entry.

Nothing is run, imported, fetched, or opened or written elsewhere; every answer is a user's error or a clean success, as
the table says; each takes at most two seconds and 256 MiB more than before. The default run takes a sample; `-m slow`
takes all. Each gate is turned on what it must notice, too.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gates.corpus import KINDS, Case, Goods, corpus
from tests.gates.paths import PLACES, STRINGS, WORDS, leaves, options, path_cases, planted
from tests.weights.test_bad_input import HOSTILE as SOME

RUNNER = Path(__file__).with_name("runner.py")
SECONDS, MEBIBYTES = 2.0, 256.0
SURFACES = {
    "model": ("open_model", "weights.open_model", "aquatint convert", "aquatint generate --model"),
    "lora": ("open_lora", "shelf", "folder", "aquatint generate --lora"),
    "embedding": ("open_embedding", "aquatint generate --embedding"),
}
TELLING = ("inspect", "aquatint inspect", "aquatint loras")  # these say what is wrong, and that is a success
PLAIN = ("weights.open_model", "open_lora", "open_embedding")
HOSTILE = [
    *SOME, "file:///etc/passwd", "//127.0.0.1/share", "\\\\127.0.0.1\\share", "~/.ssh/id_rsa", "$HOME/x", "canary.py",
    "canary:run", "torch.load", "builtins.eval", "!!python/object/apply:os.system ['true']", "{{7*7}}", "${7*7}",
    "%(x)s", "lambda: 0", "x\u0000y", "", "x" * 100_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def goods(root: Path) -> Goods:
    (root / "goods").mkdir()
    return Goods(root / "goods")


def run(root: Path, goods: Goods, cases: list[dict[str, Any]], poison: bool = False) -> list[dict[str, Any]]:
    """Cases through their entries, in a process of its own."""
    warm: list[tuple[str, tuple[str, ...]]] = [(str(goods.of(kind)), SURFACES[kind]) for kind in KINDS]
    warm.append((str(goods.archive), ()))  # which every entry refuses
    words = list({tuple(case["before"]): None for case in cases if "before" in case})
    plan = {
        "root": str(root), "tiny": str(goods.native), "cases": cases, "warm": warm, "poison": poison, "words": words,
    }  # fmt: skip
    (root / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(root / "plan.json"), str(root / "results.json")],
        capture_output=True, text=True, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (root / "results.json").read_text().splitlines()]


def made(root: Path, cases: list[Case]) -> list[dict[str, Any]]:
    """The cases on the disk, each in a folder of its own, with the entries that take them and the plain others."""
    rows = []
    for number, case in enumerate(cases):
        home = root / "cases" / f"{number}"
        home.mkdir(parents=True)
        entries = dict.fromkeys((*TELLING, *(entry for kind in case.takes for entry in SURFACES[kind]), *PLAIN))
        rows.append({"name": case.name, "path": str(case.make(home)), "entries": list(entries)})
    return rows


def wrong(row: dict[str, Any], opens: tuple[str, ...] | None) -> str:
    """What is not as it should be; `opens` None takes either outcome."""
    if row["outcome"] not in ("good", "refused"):
        return f"{row['outcome']} {row['fault']}"
    surface = next((kind for kind, entries in SURFACES.items() if row["entry"] in entries), None)
    if opens is not None and surface and (row["outcome"] == "good") != (surface in opens):
        return f"{row['outcome']} where the table says otherwise"
    if row["seen"]:
        return "; ".join(row["seen"])
    if row["seconds"] > SECONDS or row["mebibytes"] > MEBIBYTES:
        return f"{row['seconds']:.2f} s, {row['mebibytes']:.0f} MiB"
    return ""


def report(gate: str, results: list[dict[str, Any]], faults: list[str]) -> None:
    """One line on what was done."""
    counts = Counter(row["outcome"] for row in results)
    cases, entries = len({row["case"] for row in results}), len({row["entry"] for row in results})
    print(
        f"\ngate {gate}: {cases} cases, {entries} entries, {len(results)} runs: "
        f"{', '.join(f'{count} {name}' for name, count in counts.most_common())}; "
        f"slowest {max(row['seconds'] for row in results):.2f} s, "
        f"largest {max(row['mebibytes'] for row in results):.0f} MiB; {len(faults)} wrong"
    )
    assert not faults, "\n".join(faults[:40])


def gate(name: str, root: Path, goods: Goods, cases: list[Case], poison: bool = False) -> None:
    opens = {case.name: case.opens for case in cases}
    results = run(root, goods, made(root / name, cases), poison)
    assert {row["case"] for row in results} == set(opens)
    judged(name, results, opens)


def judged(name: str, results: list[dict[str, Any]], opens: dict[str, tuple[str, ...]]) -> None:
    """Every outcome against the table."""
    faults = [f"{row['case']} / {row['entry']}: {why}" for row in results if (why := wrong(row, opens[row["case"]]))]
    report(name, results, faults)


def sample(goods: Goods, count: int) -> list[Case]:
    cases = corpus(goods)
    good, bad = cases[: len(KINDS)], cases[len(KINDS) :]
    return good + random.Random(4).sample(bad, count)


CANARIES = ["os.system", "torch.load", "pickle.loads", "slow", "greedy", "outside", "writing", "fault", "importing"]


@pytest.fixture(scope="module")
def quick(root: Path, goods: Goods) -> dict[str, list[dict[str, Any]]]:
    """What came of a sample of each gate, and of what they must notice, in one process."""
    parts = {
        "S1": made(root / "sample", sample(goods, 8)),
        "S4": random.Random(5).sample(list(inert_cases(goods)), 40),
        "S5": path_cases(root, goods, 24),
        "canary": [{"name": "canary", "path": str(bomb(root)), "entries": CANARIES}],
    }
    results = run(root, goods, [case for cases in parts.values() for case in cases])
    names = {part: {case["name"] for case in cases} for part, cases in parts.items()}
    return {part: [row for row in results if row["case"] in names[part]] for part in parts}


def test_a_sample_of_the_corpus(quick: dict[str, list[dict[str, Any]]], goods: Goods) -> None:
    judged("S1 (sample)", quick["S1"], {case.name: case.opens for case in corpus(goods)})


@pytest.mark.slow
def test_the_whole_corpus(root: Path, goods: Goods) -> None:
    cases = corpus(goods)
    assert len(cases) > 500
    gate("S1", root, goods, cases)


@pytest.mark.slow
def test_nothing_that_unpickles_or_imports_is_called(root: Path, goods: Goods) -> None:
    """S2: the corpus once more, with torch.load, pickle, import_module and every way of starting a program poisoned."""
    gate("S2", root, goods, sample(goods, 250), poison=True)


def inert_cases(goods: Goods) -> Iterator[dict[str, Any]]:
    """Every text in a folder's documents, and in the heads of a model, a LoRA and an embedding, replaced in turn."""
    for document in sorted(goods.folder.rglob("*.json")):
        if document.name in ("vocab.json", "tokenizer.json"):
            continue
        data = json.loads(document.read_text())
        for place in leaves(data):
            for text in HOSTILE:
                yield {
                    "name": f"{document.name} {place} {text[:40]!r}",
                    "path": str(goods.folder), "document": str(document),
                    "text": json.dumps(planted(data, place, text)), "head": False, "entries": ["inspect", "open_model"],
                }  # fmt: skip
    for path, entries in (
        (goods.model, ["inspect", "weights.open_model"]), (goods.lora, ["open_lora", "aquatint inspect"]),
        (goods.embedding, ["open_embedding", "aquatint inspect"]),
    ):  # fmt: skip
        data = path.read_bytes()
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        for key, value in head["__metadata__"].items():
            inner = json.loads(value) if value.startswith("{") else value
            for place in leaves(inner):
                for text in HOSTILE:
                    new = planted(inner, place, text)
                    told = head["__metadata__"] | {key: new if isinstance(new, str) else json.dumps(new)}
                    yield {
                        "name": f"{path.name} {key} {place} {text[:40]!r}", "path": str(path), "document": str(path),
                        "text": json.dumps(head | {"__metadata__": told}), "head": True, "entries": entries,
                    }  # fmt: skip


def inert(name: str, results: list[dict[str, Any]]) -> None:
    """Whatever became of a text, it did nothing."""
    faults = [f"{row['case']} / {row['entry']}: {why}" for row in results if (why := wrong(row, None))]
    report(name, results, faults)
    counts = Counter(row["outcome"] for row in results)
    assert counts["good"], "some texts change nothing"
    assert counts["refused"], "and some are refused"


def test_a_sample_of_texts_is_inert(quick: dict[str, list[dict[str, Any]]]) -> None:
    inert("S4 (sample)", quick["S4"])


@pytest.mark.slow
def test_every_text_is_inert(root: Path, goods: Goods) -> None:
    assert len(HOSTILE) == 24
    inert("S4", run(root, goods, list(inert_cases(goods))))


def test_a_sample_of_paths_stays_inside(quick: dict[str, list[dict[str, Any]]]) -> None:
    inert("S5 (sample)", quick["S5"])


@pytest.mark.slow
def test_every_path_stays_inside(tmp_path: Path, goods: Goods) -> None:
    assert len(STRINGS) == len(set(STRINGS)) == 60
    inert("S5", run(tmp_path, goods, path_cases(tmp_path, goods)))


def test_every_option_is_a_place_or_a_word() -> None:
    assert options() == PLACES | WORDS


class Bomb:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def bomb(root: Path) -> Path:
    """A checkpoint with one in it."""
    (root / "canary").mkdir(exist_ok=True)
    torch.save({"bomb": Bomb()}, root / "canary/x.pt")
    return root / "canary/x.pt"


def test_the_gates_notice(quick: dict[str, list[dict[str, Any]]]) -> None:
    """The inverse control: what runs, opens, writes, imports, takes long or much, or fails otherwise is told."""
    told = {row["entry"]: wrong(row, None) for row in quick["canary"]}
    assert list(told) == CANARIES
    assert all(told.values()), told
    for name in ("os.system", "torch.load", "pickle.loads"):
        assert "os.system" in told[name]
    assert "MiB" in told["greedy"]
    assert "outside" in told["outside"]
    assert "writing" in told["writing"]
    assert "ValueError" in told["fault"]


@pytest.mark.slow
def test_the_poison_is_noticed(root: Path, goods: Goods) -> None:
    """The inverse control of S2."""
    case = {"name": "canary", "path": str(bomb(root)), "entries": ["torch.load", "pickle.loads", "os.system"]}
    assert all("poisoned" in wrong(row, None) for row in run(root, goods, [case], poison=True))
