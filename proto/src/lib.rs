//! The contract of Axis: messages, ids, seals, proofs and reasons, all that
//! both sides must agree on. Never any I/O.

pub mod id;
pub mod key;
pub mod leaves;
pub mod limits;
pub mod note;
pub mod proof;
pub mod reason;
pub mod receipt;
pub mod seal;
mod sha256;
pub mod shape;
pub mod signed;
pub mod succession;
pub mod token;
pub mod tree;

/// What a sender signs, and what a recipient signs back.
pub mod envelope {
    /// Generated from `axis/envelope/v1`.
    #[allow(missing_docs, clippy::doc_lazy_continuation, clippy::doc_overindented_list_items)]
    pub mod v1 {
        tonic::include_proto!("axis.envelope.v1");
    }
}

/// The journal's records, and the evidence made of them.
pub mod record {
    /// Generated from `axis/record/v1`.
    #[allow(missing_docs, clippy::doc_lazy_continuation, clippy::doc_overindented_list_items)]
    pub mod v1 {
        tonic::include_proto!("axis.record.v1");
    }
}

/// What systems call.
pub mod hub {
    /// Generated from `axis/hub/v1`.
    #[allow(
        missing_docs,
        clippy::doc_lazy_continuation,
        clippy::doc_overindented_list_items,
        clippy::large_enum_variant
    )]
    pub mod v1 {
        tonic::include_proto!("axis.hub.v1");
    }
}

/// What operators call.
pub mod admin {
    /// Generated from `axis/admin/v1`.
    #[allow(missing_docs, clippy::doc_lazy_continuation, clippy::doc_overindented_list_items)]
    pub mod v1 {
        tonic::include_proto!("axis.admin.v1");
    }
}

/// The compiled contract, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/axis.binpb"));
