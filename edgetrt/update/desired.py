"""What the controller wants of one device, signed: a DSSE envelope around a small JSON object.

Only who signs or verifies loads the libraries for it: the agent reads what it wants and leaves the rest
to a process that ends (`agent.trust_process`).
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgetrt.config import Name, PipelineSettings
from edgetrt.errors import ConfigError, TrustError

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signer

PAYLOAD_TYPE = "application/vnd.edgetrt.desired+json"
MOST_BYTES = 64 * 1024
KEYS_TARGET = "keys/assignment.json"
"""Where the repository says whose word counts."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When the release may be put to work; it is fetched and built at any time.

    Attributes:
        window: `HH:MM-HH:MM`, the device's own time; None = at any.
        lock_max_s: how long the application may hold the update back.
        ask: wait for a person's word on the device.
    """

    window: Annotated[str, msgspec.Meta(pattern=r"^\d\d:\d\d-\d\d:\d\d$")] | None = None
    lock_max_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    ask: bool = False


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """One assignment.

    Attributes:
        device: for whom.
        generation: grows with every assignment of this device.
        target: path of the release in the repository; `sha256` and `length` of it. All three are there
            or none is: then what serves goes on serving, with these settings.
        policy: when.
        settings: of pipelines, by name, as they hold from now on.
        not_after: RFC 3339, UTC; later nobody begins it.
    """

    v: int = 1
    device: Name
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    target: Annotated[str, msgspec.Meta(max_length=400)] = ""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    length: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 0
    policy: Policy = Policy()
    settings: dict[Name, PipelineSettings] = {}
    not_after: datetime

    def __post_init__(self) -> None:
        """Refuse a release that is named in part."""
        if bool(self.target) is not bool(self.sha256) or (self.length and not self.target):
            raise ValueError("target, sha256 and length belong together")


class AssignmentKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The target `keys/assignment.json`: public keys by id, and how many must sign."""

    v: int = 1
    threshold: Annotated[int, msgspec.Meta(ge=1)] = 1
    keys: dict[str, dict[str, Any]]


class _Signature(msgspec.Struct):
    keyid: str
    sig: str


class _Wire(msgspec.Struct, rename={"payload_type": "payloadType"}):
    """The envelope as it comes, which the library that verifies it takes for granted."""

    payload: str
    payload_type: str
    signatures: list[_Signature]


_DESIRED = msgspec.json.Decoder(Desired)
_KEYS = msgspec.json.Decoder(AssignmentKeys)
_ENVELOPE = msgspec.json.Decoder(_Wire)


def sign(desired: Desired, signers: Sequence[Signer]) -> bytes:
    """Make the envelope."""
    from securesystemslib.dsse import Envelope

    told = {
        key: value for key, value in msgspec.to_builtins(desired).items() if value not in ("", {})
    }
    envelope = Envelope(msgspec.json.encode(told), PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    return msgspec.json.encode(envelope.to_dict())


def peek(envelope: bytes) -> Desired:
    """What an envelope says, **without** looking at its signature.

    Raises:
        TrustError: no such thing.
    """
    wire = _wire(envelope)
    try:
        return _payload(_decoded(wire.payload))
    except (Base64Error, ValueError) as error:
        raise _refused(f"no signed envelope: {error}", "malformed") from error


def verify(envelope: bytes, keys: AssignmentKeys, device: str, now: datetime) -> Desired:
    """What the controller wants of `device`.

    Args:
        envelope: as it came.
        keys: whose word counts, as TUF told.
        device: this one.
        now: the time, to be trusted.

    Raises:
        TrustError: another signer or too few, another device, or too late. `code` tells which.
    """
    from securesystemslib.exceptions import Error as SslibError
    from securesystemslib.signer import Key

    sealed = _open(envelope)
    try:
        known = [Key.from_dict(keyid, dict(key)) for keyid, key in keys.keys.items()]
        sealed.verify(known, keys.threshold)
    except (SslibError, ValueError, KeyError, TypeError) as error:
        raise _refused(f"not signed by the assignment key: {error}", "signature") from error
    desired = _payload(sealed.payload)
    if desired.device != device:
        raise _refused(f"for device {desired.device!r}, this is {device!r}", "foreign")
    if now > _utc(desired.not_after):
        raise _refused(f"not to be begun after {desired.not_after}, now is {now}", "too-late")
    return desired


def assignment_keys(data: bytes) -> AssignmentKeys:
    """Read the target `keys/assignment.json`.

    Raises:
        TrustError: it is not such a file.
    """
    try:
        return _KEYS.decode(data)
    except msgspec.MsgspecError as error:
        raise _refused(f"{KEYS_TARGET}: {error}", "signature") from error


def moment(text: str) -> datetime:
    """A time that a person wrote, as RFC 3339.

    Raises:
        ConfigError: it is none.
    """
    try:
        return _utc(msgspec.convert(text, datetime))
    except msgspec.ValidationError as error:
        hint = "For example 2027-01-31T12:00:00Z."
        raise ConfigError(f"{text!r}: not a time: {error}", hint) from error


def _wire(envelope: bytes) -> _Wire:
    if len(envelope) > MOST_BYTES:
        raise _refused(f"{len(envelope)} bytes, at most {MOST_BYTES} are read", "malformed")
    try:
        wire = _ENVELOPE.decode(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refused(f"no signed envelope: {error}", "malformed") from error
    if wire.payload_type != PAYLOAD_TYPE:
        raise _refused(f"of type {wire.payload_type!r}, expected {PAYLOAD_TYPE}", "malformed")
    return wire


def _open(envelope: bytes) -> Envelope:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error as SslibError

    try:
        return Envelope.from_dict(msgspec.to_builtins(_wire(envelope)))
    except (SslibError, ValueError, LookupError, TypeError) as error:
        raise _refused(f"no signed envelope: {error}", "malformed") from error


def _decoded(payload: str) -> bytes:
    """Base64 in either alphabet, as DSSE allows."""
    try:
        return b64decode(payload, validate=True)
    except Base64Error:
        return b64decode(payload, altchars="-_", validate=True)


def _payload(data: bytes) -> Desired:
    try:
        desired = _DESIRED.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refused(f"{error}", "malformed") from error
    if desired.v != 1:
        raise _refused(f"version {desired.v}, expected 1", "malformed")
    return desired


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time


def _refused(what: str, code: str) -> TrustError:
    return TrustError(
        f"desired: {what}", "Assign the release again; if nobody did, look who can publish.", code
    )
