"""What can be wrong with a message before it is signed: the bounds that the
comments of proto/axis/envelope/v1/envelope.proto give, in their order.

Each finding is (field, reason), as the hub would name it in a refusal.
"""

import datetime
import re
import unicodedata

from axis.envelope.v1 import envelope_pb2 as pb

TEXT_BYTES_MAX = 4_096
DAY_MS = 86_400_000

AGENCY_CODE = re.compile(r"(?=.{1,35}\Z)[A-Za-z0-9]+(\.[A-Za-z0-9]+)*")
SYSTEM_ID = re.compile(r"[a-z][a-z0-9-]{0,31}")
GROUP_ID = re.compile(r"[a-z][a-z0-9.-]{0,63}")
HUB_ID = re.compile(r"[a-z0-9.-]{1,64}")
NUMBER = r"(0|[1-9][0-9]*)"


def is_agency_code(text: str) -> bool:
    return bool(AGENCY_CODE.fullmatch(text))


def is_delivery_id(text: str) -> bool:
    found = re.fullmatch(f"{NUMBER}-{NUMBER}", text, re.ASCII)
    return bool(found) and int(found[1]) < 1 << 64 and int(found[2]) < 1 << 32


def is_envelope_id(raw: bytes) -> bool:
    return len(raw) == 16 and raw[6] >> 4 == 7 and raw[8] >> 6 == 2


def is_date(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


class Findings(list):
    def invalid(self, field, bad):
        if bad:
            self.append((field, "FIELD_INVALID"))

    def large(self, field, bad):
        if bad:
            self.append((field, "TOO_LARGE"))

    def text(self, field, text, most=TEXT_BYTES_MAX):
        self.large(field, len(text.encode()) > most)

    def date(self, field, text):
        self.invalid(field, text and not is_date(text))

    def each(self, field, entries, most):
        """The entries with their paths; none of a list that is too long."""
        self.large(field, len(entries) > most)
        if len(entries) <= most:
            yield from ((f"{field}[{index}]", entry) for index, entry in enumerate(entries))


def envelope(message: pb.Envelope) -> Findings:
    found = Findings()
    found.invalid("envelope.envelope_id", not is_envelope_id(message.envelope_id))
    found.invalid("envelope.hub_id", not HUB_ID.fullmatch(message.hub_id))
    found.invalid("envelope.sender", not is_agency_code(message.sender))
    _recipients(found, message)
    _times(found, message)
    found.invalid("envelope.priority", message.priority not in pb.Priority.values())
    if message.HasField("thread"):
        if message.thread.HasField("in_reply_to"):
            _reference(found, "envelope.thread.in_reply_to", message.thread.in_reply_to)
        for at, entry in found.each("envelope.thread.references", message.thread.references, 16):
            _reference(found, at, entry)
    if message.WhichOneof("body") == "document":
        _document_body(found, message.document)
    else:
        found.invalid("envelope.body", True)
    return found


def acknowledgement(message: pb.Acknowledgement) -> Findings:
    found = _answer("acknowledgement", message)
    found.invalid("acknowledgement.acknowledged_unix_ms", not message.acknowledged_unix_ms)
    found.text("acknowledgement.reference", message.reference, 256)
    return found


def rejection(message: pb.Rejection) -> Findings:
    found = _answer("rejection", message)
    found.invalid("rejection.rejected_unix_ms", not message.rejected_unix_ms)
    known = message.reason in pb.RejectionReason.values()
    found.invalid("rejection.reason", not message.reason or not known)
    other = message.reason == pb.REJECTION_REASON_OTHER
    found.invalid("rejection.explanation", other and not message.explanation)
    found.text("rejection.explanation", message.explanation)
    return found


def _answer(at, message) -> Findings:
    found = Findings()
    found.invalid(f"{at}.hub_id", not HUB_ID.fullmatch(message.hub_id))
    found.invalid(f"{at}.delivery_id", not is_delivery_id(message.delivery_id))
    found.invalid(f"{at}.envelope_digest", len(message.envelope_digest) != 32)
    found.invalid(f"{at}.recipient", not is_agency_code(message.recipient))
    found.invalid(f"{at}.mailbox_sequence", not message.mailbox_sequence)
    return found


def _recipients(found, message):
    if not message.recipients and not message.groups:
        found.append(("envelope.recipients", "RECIPIENTS_EMPTY"))
    seen = set()
    for at, entry in found.each("envelope.recipients", message.recipients, 5_000):
        if not is_agency_code(entry.agency):
            found.invalid(f"{at}.agency", True)
        elif entry.agency in seen:
            found.append((f"{at}.agency", "RECIPIENT_DUPLICATE"))
        seen.add(entry.agency)
        found.invalid(f"{at}.kind", entry.kind not in pb.RecipientKind.values())
    for at, group in found.each("envelope.groups", message.groups, 16):
        found.invalid(at, not GROUP_ID.fullmatch(group))


def _times(found, message):
    created = message.created_unix_ms
    expires = message.expires_unix_ms or created + 30 * DAY_MS
    found.invalid("envelope.created_unix_ms", not created)
    outside = not created < expires <= created + 366 * DAY_MS
    found.invalid("envelope.expires_unix_ms", outside)
    late = message.not_before_unix_ms and message.not_before_unix_ms >= expires
    found.invalid("envelope.not_before_unix_ms", late)


def _reference(found, at, entry):
    found.invalid(f"{at}.sender", not is_agency_code(entry.sender))
    found.invalid(f"{at}.envelope_id", len(entry.envelope_id) != 16)


def _document_body(found, body):
    if body.HasField("metadata"):
        _metadata(found, body.metadata)
    else:
        found.invalid("envelope.document.metadata", True)
    path = "envelope.document.documents"
    found.invalid(path, not body.documents)
    names = set()
    for at, document in found.each(path, body.documents, 100):
        _document(found, at, document)
        found.invalid(f"{at}.name", document.name and document.name in names)
        names.add(document.name)


def _metadata(found, metadata):
    path = "envelope.document.metadata."
    for field in (
        "document_id code_number code_notation promulgation_place document_type_name "
        "subject content sphere_of_promulgation typer_notation"
    ).split():
        found.text(path + field, getattr(metadata, field))
    found.invalid(path + "subject", not metadata.subject)
    found.date(path + "promulgation_date", metadata.promulgation_date)
    found.date(path + "due_date", metadata.due_date)
    if metadata.HasField("signer"):
        for field in ("competence", "position", "full_name"):
            found.text(f"{path}signer.{field}", getattr(metadata.signer, field))
        found.invalid(path + "signer.full_name", not metadata.signer.full_name)
    for field in ("to_places", "appendixes", "task_codes"):
        for at, text in found.each(path + field, getattr(metadata, field), 100):
            found.text(at, text)
    for at, entry in found.each(path + "response_for", metadata.response_for, 100):
        for field in ("agency", "code", "document_id"):
            found.text(f"{at}.{field}", getattr(entry, field))
        found.date(f"{at}.promulgation_date", entry.promulgation_date)


def _document(found, at, document):
    name = document.name
    found.text(f"{at}.name", name, 255)
    control = any(unicodedata.category(c) == "Cc" for c in name)
    found.invalid(f"{at}.name", name in ("", ".", "..") or "/" in name or "\\" in name or control)
    found.text(f"{at}.media_type", document.media_type, 255)
    printable = re.fullmatch(r"[ -~]+", document.media_type)
    found.invalid(f"{at}.media_type", not printable)
    found.large(f"{at}.size", document.size > 16 * 1024**3)
    found.invalid(f"{at}.sha256", len(document.sha256) != 32)
    found.text(f"{at}.description", document.description)
