//! What hostile and broken bytes may not do, one function a target: each
//! panics if an input gets past what must stop it. Also run by plain tests
//! over the corpora, without a fuzzer.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | `envelope` | a sealed message, or a payload that is then sealed | refused with a place, or bound as it came, to the last byte |
//! | `journal` | changes to a real journal's files | found, or nothing but a last batch is lost |
//! | `record` | changes to a journal's records | the checker finds them; applying them is an error at worst |
//! | `snapshot` | changes to a snapshot | found; never other pairs |
//! | `upload` | begin, write, cut, resume, finish, power cuts | a document is what was declared, or not there |
//! | `text` | ids, tokens, notes, proofs, receipts | what is read writes itself the same; nothing foreign verifies |
//! | `request` | a request for a certificate | what is signed is the asked key and the system's name, no more |
#![forbid(unsafe_code)]

pub mod envelope;
pub mod journal;
pub mod record;
pub mod request;
pub mod snapshot;
pub mod text;
pub mod upload;
pub mod world;

/// What a fuzzer hands its inputs to.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("envelope", envelope::run),
    ("journal", journal::run),
    ("record", record::run),
    ("request", request::run),
    ("snapshot", snapshot::run),
    ("text", text::run),
    ("upload", upload::run),
];
