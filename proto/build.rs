//! Compiles the contract without protoc.

use prost::Message as _;

const FILES: [&str; 7] = [
    "axis/envelope/v1/envelope.proto",
    "axis/record/v1/record.proto",
    "axis/hub/v1/reason.proto",
    "axis/hub/v1/submission.proto",
    "axis/hub/v1/mailbox.proto",
    "axis/hub/v1/hub.proto",
    "axis/admin/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=axis");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    std::fs::write(out.join("axis.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
