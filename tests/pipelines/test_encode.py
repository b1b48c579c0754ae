"""From prompts to contexts: the same bits as ever for plain words, chunks, weights, changes, embeddings."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.fixtures import tiny_bundle
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.nets.tokenizer import Tokenizer
from aquatint.pipelines.account import account_of
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.chunks import Chunk, chunks
from aquatint.pipelines.encode import Told, tell
from aquatint.pipelines.generate import generate
from aquatint.pipelines.infotext import parse_infotext, request_from
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.request import Request


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    tiny = tiny_bundle()
    torch.nn.init.constant_(tiny.text.norm.bias, 0.3)  # else the mean that A1111 restores is nothing but rounding
    return replace(tiny, tokenizer=Tokenizer.train(["cat dog , . a b c red"] * 3, 1024))


def read(bundle: Bundle, text: str, grammar: str = "a1111", **sizes: int) -> tuple[Chunk, ...]:
    (part,) = parse(text, grammar).parts
    return chunks(part.scenes[0], grammar, bundle.tokenizer, sizes, [])


def lengths(bundle: Bundle, text: str, grammar: str = "a1111", **sizes: int) -> list[int]:
    return [len(chunk) for chunk in read(bundle, text, grammar, **sizes)]


def told(bundle: Bundle, prompt: str, negative: str = "", grammar: str = "a1111", steps: int = 4) -> tuple[Told, ...]:
    return tell(bundle, parse(prompt, grammar, steps=steps), parse(negative, grammar, steps=steps, negative=True))


def context(bundle: Bundle, prompt: str, grammar: str = "a1111") -> Tensor:
    ((_, cond),) = told(bundle, prompt, grammar=grammar)[0].positives
    return cond.context[0]


def encoded(bundle: Bundle, words: Sequence[str]) -> Tensor:
    """What the text encoder says of words, the plainest way."""
    with torch.no_grad():
        return bundle.text(bundle.tokenizer(list(words))).tokens


@pytest.mark.parametrize("grammar", ["a1111", "comfy", "plain"])
@pytest.mark.parametrize("negative", ["", "a dog. b, c"])
def test_plain_words_have_the_bits_that_they_always_had(bundle: Bundle, grammar: str, negative: str) -> None:
    for prompt in ("cat", "a red cat, a Dog.  it's  5 o'clock\n", "cat " * 75, "ÄÖ \N{PERSONAL COMPUTER} x"):
        assert len(bundle.tokenizer.ids(prompt)) <= 75
        away, toward = encoded(bundle, [negative, prompt])
        (one,) = told(bundle, prompt, negative, grammar)
        assert torch.equal(one.positives[0][1].context[0], toward)
        assert torch.equal(one.negative.context[0], away)
        both = bundle.encode_text([negative, prompt], grammar=grammar).context
        assert torch.equal(both, torch.stack([away, toward]))


def test_chunks_of_75_and_the_comma_rule(bundle: Bundle) -> None:
    assert lengths(bundle, "") == [0]
    assert lengths(bundle, "cat " * 76) == [75, 1]
    assert lengths(bundle, "cat " * 60 + ", " + "dog " * 30) == [61, 30]
    assert lengths(bundle, "cat " * 54 + ", " + "dog " * 30) == [75, 10]  # the comma is 21 tokens back
    assert lengths(bundle, "cat " * 55 + ", " + "dog " * 30) == [56, 30]  # 20
    assert lengths(bundle, "cat " * 74 + ", " + "dog " * 3) == [75, 3]
    assert lengths(bundle, "cat " * 75 + ", " + "dog " * 3) == [75, 4]  # a comma itself may open a chunk
    assert lengths(bundle, "cat " * 70 + ", " + "dog " * 160) == [71, 75, 75, 10]


def test_break(bundle: Bundle) -> None:
    assert lengths(bundle, "cat BREAK dog cat") == [1, 2]
    assert lengths(bundle, "BREAK cat") == [0, 1]
    assert lengths(bundle, "cat BREAK") == [1]
    assert lengths(bundle, "cat BREAK BREAK dog") == [1, 0, 1]
    assert lengths(bundle, "cat BREAK dog", "comfy") == [len(bundle.tokenizer.ids("cat BREAK dog"))]


def test_comfy_keeps_short_words_whole(bundle: Bundle) -> None:
    assert lengths(bundle, "cat " * 74 + "cat,dog", "comfy") == [74, 3]
    assert lengths(bundle, "cat " * 74 + ",".join(["cat"] * 4), "comfy") == [74, 7]
    assert lengths(bundle, "cat " * 74 + ",".join(["cat"] * 5), "comfy") == [75, 8]


def test_plain_is_cut_off(bundle: Bundle) -> None:
    assert lengths(bundle, "cat " * 90, "plain") == [75]
    (note,) = account_of(bundle, "cat " * 74 + "dog red cat", "plain").notes
    assert (note.text, "77" in note.why) == ("red cat", True)


def test_every_token_knows_its_place(bundle: Bundle) -> None:
    text = r"a (cat:1.2) \(dog\), [red:b:0.5] <lora:x:1> cat BREAK dog"
    for grammar in ("a1111", "comfy", "plain"):
        for chunk in read(bundle, text, grammar):
            for token in chunk:
                assert text[token.start : token.end].lower() == token.text.strip()


def test_each_chunk_is_encoded_alone(bundle: Bundle) -> None:
    both = context(bundle, "a red cat BREAK a dog, b")
    assert both.shape == (2 * 77, 32)
    assert torch.equal(both[:77], encoded(bundle, ["", "a red cat"])[1])
    assert torch.equal(both[77:], encoded(bundle, ["", "a dog, b"])[1])


def test_a1111_weights_keep_the_mean(bundle: Bundle) -> None:
    plain = encoded(bundle, ["", "a cat dog"])[1].double()
    weights = torch.ones(77, 1, dtype=torch.float64)
    weights[2] = 1.3  # start, a, cat
    weighed = plain * weights
    expected = weighed * plain.mean() / weighed.mean()
    found = context(bundle, "a (cat:1.3) dog").double()
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.mean() == pytest.approx(float(plain.mean()), rel=1e-4)
    two = context(bundle, "a (cat:1.3) dog BREAK b")  # the mean is each chunk's own
    assert torch.equal(two[:77].double(), found)
    assert torch.equal(two[77:], encoded(bundle, ["", "b"])[1])


def test_comfy_weights_lead_away_from_the_empty_text(bundle: Bundle) -> None:
    empty, plain = encoded(bundle, ["", ""])[1], encoded(bundle, ["", "a cat dog"])[1]
    found = context(bundle, "a (cat:1.3) dog", "comfy")
    assert torch.allclose(found[2], empty[2] + 1.3 * (plain[2] - empty[2]), atol=1e-6)
    others = [place for place in range(77) if place != 2]
    assert torch.equal(found[others], plain[others])


def test_unequal_lengths_are_repeated(bundle: Bundle) -> None:
    (one,) = told(bundle, "cat BREAK dog BREAK red", "b")
    assert one.negative.context.shape == one.positives[0][1].context.shape == (1, 3 * 77, 32)
    assert torch.equal(one.negative.context[0], encoded(bundle, ["b", ""])[0].repeat(3, 1))
    (one,) = told(bundle, " BREAK ".join("abcabc"), " BREAK ".join("abcab"))  # 30 chunks would be too many: empty ones
    assert one.negative.context.shape == (1, 6 * 77, 32)
    assert torch.equal(one.negative.context[0, 5 * 77 :], encoded(bundle, ["", ""])[0])


def test_repeating_a_context_changes_nothing_for_attention(bundle: Bundle) -> None:
    said = context(bundle, "a red cat")[None]
    x, t = torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        assert torch.allclose(bundle.unet(x, t, said, None), bundle.unet(x, t, said.repeat(1, 3, 1), None), atol=1e-5)


def test_what_is_told_changes_with_the_steps(bundle: Bundle) -> None:
    course = told(bundle, "a [cat:dog:2]", "[b|c]", steps=4)
    assert [one.until for one in course] == [1, 2, 3, 4]
    said = [(one.positives[0][1].context[0], one.negative.context[0]) for one in course]
    for (toward, away), (prompt, negative) in zip(
        said, [("a cat", "b"), ("a cat", "c"), ("a dog", "b"), ("a dog", "c")], strict=True
    ):
        expected = encoded(bundle, [negative, prompt])
        assert torch.equal(away, expected[0])
        assert torch.equal(toward, expected[1])


def test_encode_text_says_one_thing(bundle: Bundle) -> None:
    for text in ("cat AND dog", "[cat|dog]", "[cat:dog:0.5]"):
        with pytest.raises(UserError, match="different things"):
            bundle.encode_text([text])
    assert bundle.encode_text(["cat", "cat BREAK dog", "dog"]).context.shape == (3, 154, 32)


def test_clip_skip(bundle: Bundle) -> None:
    ids = bundle.tokenizer(["", "a cat"])
    with torch.no_grad():
        last, before = bundle.text(ids).tokens, bundle.text(ids, skip=1).tokens
    assert torch.equal(bundle.encode_text(["", "a cat"], clip_skip=1).context, last)
    assert torch.equal(bundle.encode_text(["", "a cat"], clip_skip=2).context, before)
    with pytest.raises(UserError, match="clip_skip = 3"):
        generate(bundle, Request("a cat", clip_skip=3))


def test_clip_skip_stands_in_the_infotext(bundle: Bundle) -> None:
    picture = bundle.paint("(a:1.2) cat", steps=1, clip_skip=2)
    text = picture.metadata()["parameters"]
    assert ", Clip skip: 2," in text
    assert request_from(parse_infotext(text)).clip_skip == 2
    assert "Clip skip" not in bundle.paint("a cat", steps=1, clip_skip=1).metadata()["parameters"]


def with_embeddings(bundle: Bundle, **vectors: Tensor) -> Bundle:
    return replace(bundle, embeddings={name: (rows,) for name, rows in vectors.items()})


def test_embeddings_stand_for_their_names(bundle: Bundle) -> None:
    (cat,) = bundle.tokenizer.ids("cat")
    (dog,) = bundle.tokenizer.ids("dog")
    words = bundle.text.words.weight.detach()
    taught = with_embeddings(bundle, red=words[[cat, dog]], redcat=words[[cat]])
    expected = encoded(bundle, ["", "a cat dog b"])[1]
    assert torch.equal(context(taught, "a red b"), expected)
    assert torch.equal(context(taught, "a embedding:red b", "comfy"), expected)
    assert torch.equal(context(taught, "a embedding:red.pt b", "comfy"), expected)
    assert torch.equal(context(taught, "a red b", "plain"), encoded(bundle, ["", "a red b"])[1])
    account = account_of(taught, "a (red:1.5) b")
    assert account.embeddings == ("red",)
    assert [(token.text, token.weight) for token in account.parts[0].scenes[0].chunks[0]][1:3] == [("<red> ", 1.5)] * 2
    (note,) = account_of(taught, "a embedding:blue, b", "comfy").notes
    assert (note.text, "not known" in note.why) == ("embedding:blue", True)


def test_embeddings_and_chunks(bundle: Bundle) -> None:
    assert lengths(bundle, "cat " * 70 + "red", red=10) == [70, 10]
    assert lengths(bundle, "cat " * 70 + "embedding:red", "comfy", red=10) == [75, 5]
    assert lengths(bundle, "cat red dog", red=100) == [75, 27]


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m"])
def test_painting_with_the_whole_language(bundle: Bundle, sampler: str) -> None:
    def x0(prompt: str, **wishes: object) -> Tensor:
        request = Request(prompt, steps=4, sampler=sampler, seeds=(3,), **wishes)  # type: ignore[arg-type]
        *_, last = generate(bundle, request)
        assert last.x0 is not None
        return last.x0

    plain = x0("a cat")
    for other in ("a (cat:1.3)", "a [cat:dog:2]", "[a cat|dog]", "a cat AND dog :0.5", "a cat BREAK dog", "cat " * 90):
        assert not torch.equal(plain, x0(other)), other
    assert not torch.equal(plain, x0("a cat", clip_skip=2))
    assert not torch.equal(x0("(a cat:1.2)"), x0("(a cat:1.2)", grammar="comfy"))
    for same in ("a [cat:dog:4]", "a [cat|cat]", "a cat<lora:x:1>", "a [dog:cat:0]", "a cat AND dog :0"):
        assert torch.allclose(plain, x0(same), atol=1e-4), same
    assert torch.equal(plain, x0("a [cat:dog:4]"))
    assert torch.equal(x0("a cat", guidance=1.0), x0("a cat", negative="dog", guidance=1.0))
