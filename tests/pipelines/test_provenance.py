"""Content credentials: signed files keep pixels and metadata, say what they are, and show every change."""

import datetime
import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.fixtures import tiny_bundle

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.pipelines import metadata
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.given import given
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.provenance import Signing, credentials, open_signing

pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402


def certificates(folder: Path, curve: ec.EllipticCurve, *, purpose: bool = True) -> tuple[Path, Path, bytes]:
    """(a leaf with its CA, the leaf's key, the CA): files as a user would bring them."""
    now = datetime.datetime(2026, 1, 1)
    above, below = ec.generate_private_key(curve), ec.generate_private_key(curve)

    def built(subject: str, number: int, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        oid = x509.NameOID
        name, issuer = (
            x509.Name([x509.NameAttribute(oid.COMMON_NAME, text), x509.NameAttribute(oid.ORGANIZATION_NAME, "Tests")])
            for text in (subject, "Authority")
        )
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        made = (
            x509.CertificateBuilder(issuer, name, key.public_key(), number)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=7300))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        )
        if not ca and purpose:
            usages = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(usages, critical=False)
        return made.sign(above, hashes.SHA256())

    ca, leaf = built("Authority", 1, above, ca=True), built("Painter", 2, below, ca=False)
    pem = serialization.Encoding.PEM
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(leaf.public_bytes(pem) + ca.public_bytes(pem))
    key.write_bytes(below.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return chain, key, ca.public_bytes(pem)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signing, bytes]:
    chain, key, ca = certificates(tmp_path_factory.mktemp("identity"), ec.SECP256R1())
    return open_signing(chain, key), ca


@pytest.fixture(scope="module")
def picture() -> Picture:
    return tiny_bundle().paint("a red apple, ünïcödé", seed=3, steps=2)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_signed_file(format: str, picture: Picture, identity: tuple[Signing, bytes]) -> None:
    signing, ca = identity
    plain, data = picture.encode(format), picture.encode(format, signing)
    before, after = images.decode(plain), images.decode(data)
    assert before.tobytes() == after.tobytes()
    assert metadata.find(after).record == metadata.find(before).record
    assert metadata.find(after).infotext == metadata.find(before).infotext
    assert metadata.find(after).marked
    found = credentials(data, format)
    assert found is not None
    assert (found.state, found.signer, found.issuer) == ("Valid", "Painter", "Tests")
    assert found.failures == ("signingCredential.untrusted",)
    assert found.generator.startswith("aquatint ")
    assert (found.actions, found.sources) == (("c2pa.created",), (metadata.MARK,))
    trusted = credentials(data, format, anchors=ca)
    assert trusted is not None
    assert (trusted.state, trusted.failures) == ("Trusted", ())
    assert credentials(plain, format) is None


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_tampering_is_noticed(format: str, picture: Picture, identity: tuple[Signing, bytes]) -> None:
    data = picture.encode(format, identity[0])
    changes = {"the prompt": data.find(b"red apple"), "the last byte but 40": len(data) - 40}
    if format == "jpeg":
        changes["the prompt"] = data.find("red apple".encode("utf-16-be"))
    for what, at in changes.items():
        assert at > 0
        changed = bytearray(data)
        changed[at] ^= 1
        found = credentials(bytes(changed), format)
        assert found is not None, what
        assert found.state == "Invalid", what
    pixels = images.decode(data).copy()
    pixels.putpixel((0, 0), (1, 2, 3))
    out = io.BytesIO()
    pixels.save(out, format.upper())
    assert credentials(out.getvalue(), format) is None  # saved anew by a program that knows nothing of credentials


def test_an_edit_names_what_it_began_from(identity: tuple[Signing, bytes]) -> None:
    edit = Edit(given(Image.new("RGB", (64, 64), "blue"), name="sea"), strength=0.5)
    edited = tiny_bundle().paint("a red apple", steps=2, edit=edit)
    found = credentials(edited.encode("png", identity[0]), "png")
    assert found is not None
    assert found.state == "Valid"
    assert (found.actions, found.sources) == (("c2pa.opened", "c2pa.edited"), (metadata.MARK_OF_EDITS,))


def test_other_curves(tmp_path: Path) -> None:
    chain, key, _ = certificates(tmp_path, ec.SECP384R1())
    assert open_signing(chain, key).algorithm == "ES384"


def test_what_cannot_sign(tmp_path: Path, identity: tuple[Signing, bytes]) -> None:
    chain, key, _ = certificates(tmp_path, ec.SECP256R1(), purpose=False)
    with pytest.raises(UserError, match="cannot sign"):
        open_signing(chain, key)
    with pytest.raises(UserError, match="no PEM"):
        open_signing(key, key)
    with pytest.raises(UserError, match="not there"):
        open_signing(tmp_path / "nothing.pem", key)
    other = tmp_path / "other"
    other.mkdir()
    chain, _, _ = certificates(other, ec.SECP256R1())
    with pytest.raises(UserError, match="cannot sign"):
        open_signing(chain, key)  # another's key
    assert "PRIVATE" not in repr(identity[0])


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, picture: Picture, identity: tuple[Signing, bytes]
) -> None:
    data = picture.encode("png", identity[0])
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(UserError, match=r"aquatint\[provenance\]"):
        picture.encode("png", identity[0])
    found = credentials(data, "png")
    assert found is not None
    assert found.state == "unread"
