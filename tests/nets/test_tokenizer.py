"""The tokenizer against transformers' CLIPTokenizer, its training, its files, and bad input."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.nets.merges import learn
from aquatint.nets.tokenizer import Tokenizer

CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]

STRINGS = [
    "", " ", "   \t\n ", "\n", "\u00a0", "\u3000\u2003", "\u200b", "\ufeff", "\x00", "\x00a\x00b\x1b[31m",
    "a\u0085b", "a\x0bb\x0cc", "a", "A", "hello world", "Hello, World!", "a  photo   of\ta\ncat",
    " leading and trailing ", "a photo of a castle",
    # emoji: single, flags, skin tones, ZWJ families, keycaps, variation selectors
    "🎉", "🎉🎉🎉", "🇫🇷🇯🇵", "👍🏽 nice", "👨‍👩‍👧‍👦", "👩🏿‍🚀 in space", "🏳️‍🌈", "1️⃣2️⃣#️⃣", "❤️‍🔥",
    "a🐱b", "🧑‍🎨 paints 🖼️", "©®™", "☺", "☺️", "🫠🪿", "\U0001f9ff\ufe0f",
    # scripts
    "東京の夜", "日本語のテキスト、句読点。", "中文，逗号；句号。", "简体 繁體", "안녕하세요 세계",
    "ㅎㅏㄴ", "ｆｕｌｌ　ｗｉｄｔｈ", "ｶﾀｶﾅ", "مرحبا بالعالم", "שלום עולם", "a שלום b", "\u202eabc\u202c",
    "ไทยแลนด์", "नमस्ते दुनिया", "தமிழ்", "Привет, МИР", "Ελληνικά Σίσυφος ΣΑΣ", "İstanbul IĞDIR ı",
    "ŞĞÜ", "ǅ ǈ ﬁ ﬂ", "ẞ ß STRASSE", "Ⅷ ⅷ", "ⒶⒷ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚", "ᏣᎳᎩ", "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "𐐀𐐨", "ꙮ",
    # composed and decomposed
    "café", "cafe\u0301", "CAFE\u0301", "A\u030a \u212b Å", "e\u0301\u0323", "n\u0303", "\u0301",
    " \u0301a", "한글 \u1112\u1161\u11ab", "ﷺ",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "ﾊﾟ", "\u0344", "𝅗𝅥",
    # numbers and signs
    "1", "12", "123", "1234567890", "3.14", "1,000,000", "x2", "2x4", "4k 8K", "½ ² ³ ①", "٣٤٥", "१२३",
    "一二三", "100%", "$5.99", "€20", "snake_case_name", "__init__", "_", "___", "a_b", "kebab-case",
    "--", "---", "...", "…", "?!?!", "!!!", "!", "\"quoted\"", "“curly”", "it’s", "‘s", "a/b\\c",
    "@user #tag", "https://example.com/a?b=c&d=e#f", "me@example.com", "C++ and C#", "a+b=c", "~`^|",
    "§¶†‡", "«»",
    # html, A1111, code
    "&amp; &lt; &#39; &nbsp; &amp;amp;", "<b>bold</b>", "(cat:1.2)", "((cat))", "[dog]", "[cat:dog:0.5]",
    "[a|b]", "<lora:name:0.8>", "\\(escaped\\)", "a BREAK b", "a AND b", "{a|b|c}",
    "masterpiece, best quality, (ultra-detailed:1.3), 8k", "--ar 16:9 --v 5", "cat++ dog--", "%date%",
    "__wild__",
    # special tokens inside
    "<|endoftext|>", "<|startoftext|>", "a <|endoftext|> b", "a<|endoftext|>b", "<|ENDOFTEXT|>",
    "<|EndOfText|>!!", "x<|STARTOFTEXT|>y", "<|endoftext|><|startoftext|>", "<|endoftext", "endoftext|>",
    "<| endoftext |>", "</w>", "a</w>b", "<unk>", "[CLS]", "<|ｅndoftext|>",
    # long
    "one " * 74, "one " * 75, "one " * 76, "one " * 200, "a" * 300, "ab" * 2000,
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3, "9" * 80, "!" * 500, "é" * 100, "🎉" * 40,
    "東" * 90, "a photo of a cat, " * 20, "x " * 1000, "word" * 20 + " " + "tail",
    # casing and contractions around them
    "O'Neill", "rock'n'roll", "'tis", "y'all'd've", "dogs'", "''s", "'S'T", "don''t", "'sing",
    "i'mperfect", "she'lll", "'", "''", "' s", "'\u017f", "ſ", "K", "ŉ", "ΐ", "ﬃ", "İ", "\u1e9e", "İ'S",
    "\ue000", "\ufffd", "\uffff", "\U0010ffff", "\u00ad", "a\u00adb", "a\u2028b\u2029c", "\u180e",
    "a\u200db", "\u2060", "\x7f", "\x80\x9f",
]  # fmt: skip
STRINGS += [f"{word}{mark}" for word in ("it", "I", "THEY") for mark in CONTRACTIONS]
STRINGS += [f"It{mark.upper()} {mark.capitalize()} x{mark}y" for mark in CONTRACTIONS]


def invented(count: int) -> list[str]:
    """Random strings over an alphabet of troublemakers, the same every time."""
    draw = random.Random(7)
    signs = list("aAbZé\u0301'sST !?_-.,<|>/\\&#1٣٣½東か🎉\u200d\ufe0f👩שمİßΣ\t\n\u00a0\u3000\x00\u2028") + [
        "<|endoftext|>",
        "'ll",
        "'RE",
    ]
    return ["".join(draw.choices(signs, k=draw.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def packaged() -> Tokenizer:
    return Tokenizer.packaged()


@pytest.fixture(scope="module")
def folders(packaged: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """CLIP's tokenizer saved by us: whole; only tokenizer.json; only the older vocab.json and merges.txt."""
    whole = tmp_path_factory.mktemp("whole")
    packaged.save(whole)
    parts = {"one": ["tokenizer.json"], "two": ["vocab.json", "merges.txt"]}
    made = {"whole": whole}
    for name, kept in parts.items():
        made[name] = tmp_path_factory.mktemp(name)
        for file in [*kept, "tokenizer_config.json", "special_tokens_map.json"]:
            shutil.copy(whole / file, made[name] / file)
    return made


class TestAgainstTransformers:
    def test_there_are_enough_strings(self) -> None:
        assert len(set(STRINGS)) >= 200

    @pytest.mark.parametrize("kind", ["whole", "one", "two"])
    def test_ids_are_equal(self, kind: str, folders: dict[str, Path], packaged: Tokenizer) -> None:
        transformers = pytest.importorskip("transformers")
        peer = transformers.CLIPTokenizer.from_pretrained(folders[kind])
        ours = Tokenizer.from_folder(folders[kind])
        assert ours.table == peer.get_vocab() == packaged.table
        texts = STRINGS + invented(600)
        theirs = peer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        assert torch.equal(ours(texts), theirs)
        for text in texts:
            assert ours.ids(text) == peer(text, add_special_tokens=False).input_ids, repr(text)

    def test_from_vocabulary_and_merges_alone(self, packaged: Tokenizer) -> None:
        transformers = pytest.importorskip("transformers")
        peer = transformers.CLIPTokenizer(vocab=packaged.table, merges=list(packaged.merges))
        texts = STRINGS + invented(200)
        assert [packaged.ids(text) for text in texts] == peer(texts, add_special_tokens=False).input_ids

    def test_zero_padding(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        Tokenizer.packaged(pad="zero").save(tmp_path)
        peer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
        ours = Tokenizer.from_folder(tmp_path)
        assert ours.pad == "zero"
        texts = [text for text in STRINGS if "!" not in text]  # the peer takes "!" for padding there
        theirs = peer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        assert torch.equal(ours(texts), theirs)

    def test_trained_tokenizers_agree_too(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        ours = Tokenizer.train(CAPTIONS, 700)
        ours.save(tmp_path)
        peer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
        texts = CAPTIONS + STRINGS
        theirs = peer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        assert torch.equal(ours(texts), theirs)


class TestTexts:
    def test_known_ids(self, packaged: Tokenizer) -> None:
        # From the example of OpenAI's CLIP repository ("a diagram", "a dog", "a cat").
        assert packaged(["a diagram", "a dog", "a cat"])[:, :4].tolist() == [
            [49406, 320, 22697, 49407],
            [49406, 320, 1929, 49407],
            [49406, 320, 2368, 49407],
        ]
        assert (packaged.start, packaged.end, packaged.vocabulary) == (49406, 49407, 49408)

    def test_shape_truncation_and_padding(self, packaged: Tokenizer) -> None:
        rows = packaged(["", "cat", "cat " * 75, "cat " * 76])
        assert rows.shape == (4, 77)
        assert rows.dtype == torch.int64
        assert rows[0].tolist() == [49406] + [49407] * 76
        assert torch.equal(rows[2], rows[3])
        assert rows[3, -1] == 49407
        assert packaged([]).shape == (0, 77)
        assert Tokenizer.packaged(pad="zero")(["cat"])[0, 3:].tolist() == [0] * 74

    def test_pieces_join_to_the_text(self, packaged: Tokenizer) -> None:
        assert packaged.pieces("A kaleidoscopic CAT's Café") == ["a ", "kaleido", "scopic ", "cat ", "'s ", "café "]
        assert packaged.pieces("🫠")[0].startswith("\\xf0")
        for text in STRINGS:
            assert len(packaged.pieces(text)) == len(packaged.ids(text))

    def test_spans(self, packaged: Tokenizer) -> None:
        text = "A  CAT's Cafe\u0301"
        assert [text[start:end] for start, end in packaged.spans(text)] == ["A", "CAT", "'s", "Cafe"]
        for text in STRINGS + invented(50):
            spans = packaged.spans(text)
            assert len(spans) == len(packaged.ids(text))
            assert all(0 <= start <= end <= len(text) for start, end in spans), repr(text)

    def test_half_a_surrogate_pair(self, packaged: Tokenizer) -> None:
        with pytest.raises(UserError, match="character 3"):
            packaged(["ab\ud83d"])


CAPTIONS = [
    f"{count} {colour} {thing} on a {ground} background"
    for count in ("one", "two", "three")
    for colour in ("red", "green", "blue", "yellow")
    for thing in ("apples", "cats", "houses", "umbrellas")
    for ground in ("white", "black", "purple")
]


class TestTraining:
    def test_by_hand(self) -> None:
        # aab x3, ab x2: (a, b</w>) occurs 5 times, then (a, ab</w>) 3 times.
        assert learn(Counter({"aab": 3, "ab": 2}), 9) == [("a", "b</w>"), ("a", "ab</w>")]
        # "abc" and "bcd" tie everywhere: spelling decides. "bc" is never made again by another pair.
        merges = learn(Counter({"xabc": 2, "abcx": 2, "bcab": 1}), 99)
        joined = [left + right for left, right in merges]
        assert len(joined) == len(set(joined))

    def test_deterministic_in_any_order(self) -> None:
        shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
        assert Tokenizer.train(CAPTIONS, 560).merges == Tokenizer.train(iter(shuffled), 560).merges

    def test_vocabulary_is_reached_and_words_are_whole(self) -> None:
        tokenizer = Tokenizer.train(CAPTIONS, 1024)
        assert (tokenizer.vocabulary, tokenizer.start, tokenizer.end) == (1024, 1022, 1023)
        assert all(len(tokenizer.ids(text)) == len(text.split()) for text in CAPTIONS)
        assert len(tokenizer.ids("the")) == 1, "what the captions leave free is filled from CLIP's merges"

    def test_shorter_than_bytes(self) -> None:
        tokenizer = Tokenizer.train(CAPTIONS, 560)
        plain = Tokenizer.train(CAPTIONS, 514)
        count = {t.vocabulary: sum(len(t.ids(text)) for text in CAPTIONS) for t in (plain, tokenizer)}
        assert count[560] < 0.5 * count[514]
        with pytest.raises(UserError, match="513"):
            Tokenizer.train(CAPTIONS, 513)

    def test_no_texts(self) -> None:
        assert Tokenizer.train([], 600).vocabulary == 600


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        Tokenizer.train(CAPTIONS, 600).save(tmp_path)
        return tmp_path

    def test_round_trip(self, folder: Path) -> None:
        ours = Tokenizer.train(CAPTIONS, 600)
        assert Tokenizer.from_folder(folder).table == ours.table
        (folder / "tokenizer.json").unlink()
        again = Tokenizer.from_folder(folder)
        assert (again.merges, again.pad, again.length) == (ours.merges, "end", 77)
        assert Tokenizer.from_folder(folder, pad="zero").pad == "zero"

    def test_merges_as_strings(self, folder: Path) -> None:
        """Older tokenizer.json files spell a merge as "a b", and may list start and end as added tokens only."""
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        for mark in ("<|startoftext|>", "<|endoftext|>"):
            del content["model"]["vocab"][mark]
        (folder / "tokenizer.json").write_text(json.dumps(content))
        assert Tokenizer.from_folder(folder).ids(CAPTIONS[0]) == Tokenizer.train(CAPTIONS, 600).ids(CAPTIONS[0])

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no tokenizer"):
            Tokenizer.from_folder(tmp_path / "nowhere")
        (tmp_path / "vocab.json").write_text("{}")
        with pytest.raises(UserError, match="holds no tokenizer"):
            Tokenizer.from_folder(tmp_path)

    def test_unknown_padding(self) -> None:
        with pytest.raises(UserError, match="padding"):
            Tokenizer((), pad="nothing")

    @pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 0.99])
    def test_truncated(self, folder: Path, name: str, share: float) -> None:
        if name != "tokenizer.json":
            (folder / "tokenizer.json").unlink()
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
    @pytest.mark.parametrize(
        "content",
        [
            b"\xff\xfe\x00",
            b"[]",
            b"null",
            b'"text"',
            b"{}",
            b'{"model": 3}',
            b'{"model": {"type": "WordPiece"}}',
            b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [["a"]], "vocab": {}}}',
            b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [[1, 2]], "vocab": {}}}',
            b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": "x", "vocab": {}}}',
            b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [], "vocab": ["a"]}}',
            b'{"a": "b"}',
            b'{"a": true}',
            b"[" * 200_000,
            b"a b c\n",
            b"a b\na b\n",
            b"a</w> b\n",
            b"#version: 0.2\nno way\n",
        ],
    )
    def test_malformed(self, folder: Path, name: str, content: bytes) -> None:
        if name != "tokenizer.json":
            (folder / "tokenizer.json").unlink()
        (folder / name).write_bytes(content)
        with pytest.raises(UserError):
            Tokenizer.from_folder(folder)

    def test_too_large(self, folder: Path) -> None:
        with (folder / "tokenizer.json").open("wb") as file:
            file.truncate(40 * 2**20)
        with pytest.raises(UserError, match="bytes"):
            Tokenizer.from_folder(folder)

    def test_ids_in_another_order(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        table = json.loads((folder / "vocab.json").read_text())
        table["a"], table["b"] = table["b"], table["a"]
        (folder / "vocab.json").write_text(json.dumps(table))
        with pytest.raises(UserError, match="follow from the merges"):
            Tokenizer.from_folder(folder)

    def test_words_added_by_textual_inversion(self, folder: Path) -> None:
        (folder / "added_tokens.json").write_text('{"<my-cat>": 600}')
        with pytest.raises(UserError, match="my-cat"):
            Tokenizer.from_folder(folder)

    def test_a_folder_in_place_of_a_file(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").unlink()
        (folder / "tokenizer_config.json").mkdir()
        assert Tokenizer.from_folder(folder).vocabulary == 600
