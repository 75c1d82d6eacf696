//! Bounds that both sides agree on, each with its unit. They are part of the
//! contract: a client checks them before it sends, the hub when it receives.

/// Most bytes of a signed payload.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a payload type's name; the longest has 42.
pub const PAYLOAD_TYPE_BYTES_MAX: usize = 128;
/// Most signatures of one payload.
pub const SIGNATURES_MAX: usize = 16;
/// Most bytes of a sealed payload, encoded: the payload, and 8 KiB for its
/// type and signatures, which have less than 150 bytes each.
pub const SEALED_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 8 * 1024;
/// Most recipients that an envelope names one by one.
pub const RECIPIENTS_NAMED_MAX: usize = 5_000;
/// Most groups of one envelope.
pub const GROUPS_MAX: usize = 16;
/// Most other envelopes that one refers to, besides the one it answers.
pub const REFERENCES_MAX: usize = 16;
/// Most files of one manifest.
pub const DOCUMENTS_MAX: usize = 100;
/// Most bytes of one file.
pub const DOCUMENT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most bytes of a file that rides along with its envelope.
pub const INLINE_DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of all the files that ride along with one envelope.
pub const INLINE_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of one text: a subject, a description, an explanation.
pub const TEXT_BYTES_MAX: usize = 4_096;
/// Most entries of one list in the metadata.
pub const METADATA_LIST_MAX: usize = 100;
/// Most bytes of a file name.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a media type.
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Most bytes of a recipient's own reference.
pub const REFERENCE_BYTES_MAX: usize = 256;
/// Most bytes of one chunk of an upload.
pub const UPLOAD_CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of a certificate signing request.
pub const CERTIFICATE_REQUEST_BYTES_MAX: usize = 4_096;
/// Most bytes of one record, encoded.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Deadline of an envelope that names none, in milliseconds after `created`.
pub const EXPIRES_DEFAULT_MS: u64 = 30 * 86_400_000;
/// Furthest deadline, in milliseconds after `created`.
pub const EXPIRES_MAX_MS: u64 = 366 * 86_400_000;
