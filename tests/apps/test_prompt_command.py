"""`aquatint prompt`: the account of a prompt, for people and for programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint
from aquatint.apps import cli


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


def test_for_people(capfd: pytest.CaptureFixture[str], model: str) -> None:
    text = "a [red:(blue:1.5):0.5] apple] AND two cats :0.5 <lora:ink:0.8:0.3> <odd:1>"
    code, out, _ = run(capfd, "prompt", text, "--negative", "at night BREAK snow", "--model", model)
    assert code == 0
    shown = " ".join(out.split())
    for words in (
        "prompt (a1111)",
        "part 2, weight 0.5",
        "steps 1 to 2",
        "steps 3 to 4",
        "(1.5)",
        "lora ink weight 0.8, text 0.3",
        "<odd:1>",
        "closes nothing",
        "negative (a1111)",
        "chunk 2",
        "of 75",
    ):
        assert words in shown, words


def test_for_programs(capfd: pytest.CaptureFixture[str], model: str) -> None:
    text = "a (red:1.5) [b] apple, <lora:ink>"
    code, out, _ = run(capfd, "prompt", text, "--model", model, "--json")
    assert code == 0
    account = json.loads(out)["prompt"]
    assert (account["prompt"], account["grammar"], account["room"]) == (text, "a1111", 75)
    assert account["tags"] == [
        {"kind": "lora", "name": "ink", "weight": 1.0, "text_weight": 1.0, "start": 23, "end": 33}
    ]
    ((chunk,),) = [[chunk for scene in part["scenes"] for chunk in scene["chunks"]] for part in account["parts"]]
    red = next(token for token in chunk if token["weight"] == 1.5)
    assert text[red["start"] : red["end"]] in "red"
    assert " ".join(account["words"].split()) == "a red b apple,"


def test_what_is_refused(capfd: pytest.CaptureFixture[str], model: str) -> None:
    assert run(capfd, "prompt", " ", "--model", model)[0] == 2
    code, _, err = run(capfd, "prompt", "a", "--model", model, "--grammar", "comfi")
    assert (code, "comfy" in err) == (2, True)


def test_an_unwieldy_prompt_is_shown(capfd: pytest.CaptureFixture[str], model: str) -> None:
    code, out, _ = run(capfd, "prompt", "[/red] [bold]" * 20 + "([" * 50 + "|", "--model", model)
    assert code == 0
    assert "chunk 1" in out


def test_it_reads_standard_input(model: str) -> None:
    command = [sys.executable, "-m", "aquatint", "prompt", "-", "--model", model, "--grammar", "plain"]
    done = subprocess.run(command, input="two cats\n", capture_output=True, text=True, timeout=120, check=True)
    assert "(plain)" in done.stdout


def test_wildcards_are_settled_before_painting(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    (tmp_path / "what.txt").write_text("apple\ncat\n")
    arguments = ["a {red|blue} __what__ __no__", "--model", model, "--seed", "1", "--count", "6", "--steps", "1"]
    capfd.readouterr()
    code = cli.main(["generate", *arguments, "--wildcards", str(tmp_path), "--out", str(tmp_path), "--json"])
    out, err = capfd.readouterr()
    assert code == 0
    said = [json.loads(line)["request"]["prompt"] for line in out.splitlines()]
    assert len(said) == 6
    assert set(said) <= {f"a {colour} {what} __no__" for colour in ("red", "blue") for what in ("apple", "cat")}
    assert len(set(said)) > 1
    assert 'no wildcard "__no__"' in err
    assert cli.main(["generate", *arguments[:-4], "--steps", "1", "--out", str(tmp_path / "x"), "--json"]) == 0
    assert json.loads(capfd.readouterr()[0])["request"]["prompt"] == arguments[0]
