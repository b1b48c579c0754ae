"""Content credentials (C2PA): a picture's file signed with the user's certificate, and such signatures read.

The extra [provenance] brings c2pa-python, and is only imported here. Nothing is fetched: no time stamp, no list of
trust, no manifest that lies elsewhere. A signed file has a random number of its own, so two of one picture differ;
their pixels and their metadata do not.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aquatint import __version__
from aquatint.base import files, images
from aquatint.base.errors import UserError
from aquatint.pipelines.metadata import MARK, MARK_OF_EDITS
from aquatint.pipelines.record import Record

LARGEST = 2**20  # bytes of a certificate's or key's file
ALGORITHMS = ("ES256", "ES384", "ES512", "ED25519", "PS256", "PS384", "PS512")
_SETTINGS = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True)
class Signing:
    """A certificate with those above it (PEM), its private key (PEM), and the algorithm that they are for."""

    chain: bytes
    key: bytes
    algorithm: str

    def __repr__(self) -> str:
        return f"Signing({self.algorithm})"  # a key is not for showing


@dataclass(frozen=True)
class Credentials:
    """What a file's content credentials say.

    state       Trusted, Valid (whole, by a signer that nobody here knows), Invalid (changed since, or badly signed), or
                unread (the package is not there)
    signer, issuer   names in the certificate;  generator: the program;  failures: codes of what is wrong
    actions     what was done, in order;  sources: IPTC's kinds of source
    """

    state: str
    signer: str = ""
    issuer: str = ""
    generator: str = ""
    actions: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def open_signing(certificate: str | Path, key: str | Path) -> Signing:
    """The user's certificate and key, tried on a small picture; UserError for files that cannot sign."""
    chain, secret = (files.read(Path(path).expanduser(), limit=LARGEST) for path in (certificate, key))
    for name, data, mark in (("certificate", chain, b"CERTIFICATE-----"), ("key", secret, b"PRIVATE KEY-----")):
        if mark not in data:
            raise UserError(f"The {name} to sign with is no PEM file of one.", f"-----BEGIN ... {mark.decode()}.")
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "PNG")
    why = ""
    for algorithm in ALGORITHMS:
        try:
            signing = Signing(chain, secret, algorithm)
            _sign(out.getvalue(), "png", signing, MARK, None, "")
            return signing
        except UserError as error:
            if not why or "key" not in error.got:
                why = error.got
            if "c2pa-python" in error.got:
                raise
    raise UserError(
        f"These cannot sign: {why}",
        "A certificate for signing (key usage digitalSignature, extended key usage emailProtection) with the "
        "certificates above it, and its key without a password.",
    )


def signed(data: bytes, format: str, record: Record, signing: Signing) -> bytes:
    """A picture's file (PNG, JPEG or WebP) with content credentials in it.

    A picture that was painted from words is said to be created; an edit to be edited from what it began from.
    """
    edit = record.request.edit
    parent = None if edit is None or edit.image.image is None else edit.image.image
    name = "" if edit is None else edit.image.name
    return _sign(data, format, signing, MARK if edit is None else MARK_OF_EDITS, parent, name)


def credentials(data: bytes, format: str, anchors: bytes | None = None) -> Credentials | None:
    """What a file's credentials say; None if it has none. anchors: certificates (PEM) that are trusted."""
    if b"c2pa" not in data:
        return None
    try:
        c2pa = _package()
    except UserError:
        return Credentials("unread", failures=("the package c2pa-python is not installed",))
    settings = _SETTINGS | ({"trust": {"user_anchors": anchors.decode("latin-1")}} if anchors else {})
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(settings))
        with c2pa.Reader(images.MIME[format], io.BytesIO(data), context=context) as reader:
            return _credentials(reader)
    except c2pa.C2paError as error:
        reason = str(error)
        return None if "ManifestNotFound" in reason else Credentials("Invalid", failures=(reason[:200],))


def _credentials(reader: Any) -> Credentials:
    manifest = reader.get_active_manifest() or {}
    results = (reader.get_validation_results() or {}).get("activeManifest") or {}
    signature, generators = manifest.get("signature_info") or {}, manifest.get("claim_generator_info") or [{}]
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]
    return Credentials(
        state=str(reader.get_validation_state()),
        signer=str(signature.get("common_name") or ""),
        issuer=str(signature.get("issuer") or ""),
        generator=" ".join(str(generators[0].get(key) or "") for key in ("name", "version")).strip(),
        actions=tuple(str(action.get("action")) for action in actions),
        sources=tuple(str(action["digitalSourceType"]) for action in actions if action.get("digitalSourceType")),
        failures=tuple(dict.fromkeys(str(failure.get("code")) for failure in results.get("failure", ()))),
    )


def _sign(
    data: bytes, format: str, signing: Signing, source: str, parent: Image.Image | None, parents_name: str
) -> bytes:
    c2pa = _package()
    claim = {"claim_generator_info": [{"name": "aquatint", "version": __version__}], "title": f"picture.{format}"}
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
        info = c2pa.C2paSignerInfo(
            alg=c2pa.C2paSigningAlg[signing.algorithm], sign_cert=signing.chain, private_key=signing.key, ta_url=None
        )
        out = io.BytesIO()
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(claim, context) as builder:
            if parent is None:
                kinds = c2pa.C2paDigitalSourceType
                composite, created = kinds.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA, kinds.TRAINED_ALGORITHMIC_MEDIA
                builder.set_intent(c2pa.C2paBuilderIntent.CREATE, created if source == MARK else composite)
            else:
                began = io.BytesIO()
                parent.save(began, "PNG")
                began.seek(0)
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                builder.add_ingredient({"title": parents_name, "relationship": "parentOf"}, "image/png", began)
                builder.add_action({"action": "c2pa.edited", "digitalSourceType": source})
            builder.sign(signer, images.MIME[format], io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise UserError(f"The picture could not be signed: {str(error)[:300]}.") from None
    return out.getvalue()


def _package() -> Any:
    try:
        import c2pa
    except ImportError:
        raise UserError(
            "Content credentials need the package c2pa-python.", "", 'pip install "aquatint[provenance]"'
        ) from None
    return c2pa
