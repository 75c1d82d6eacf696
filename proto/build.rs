//! Compiles the contract without protoc, and turns the reasons' options into
//! a Rust table.

use std::{error::Error, fmt::Write as _};

use prost_reflect::{DescriptorPool, DynamicMessage, Value};

const FILES: [&str; 7] = [
    "axis/envelope/v1/envelope.proto",
    "axis/record/v1/record.proto",
    "axis/hub/v1/reason.proto",
    "axis/hub/v1/submission.proto",
    "axis/hub/v1/mailbox.proto",
    "axis/hub/v1/hub.proto",
    "axis/admin/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=axis");
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    // encoded by the compiler, which keeps the options that prost drops
    std::fs::write(out.join("axis.binpb"), compiler.encode_file_descriptor_set())?;
    std::fs::write(out.join("reasons.rs"), reasons(&compiler.descriptor_pool())?)?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The table of `reason.rs`: remedy and messages of each reason.
fn reasons(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let reasons = pool.get_enum_by_name("axis.hub.v1.Reason").ok_or("no Reason")?;
    let remedies = pool.get_enum_by_name("axis.hub.v1.Remedy").ok_or("no Remedy")?;
    let option = pool.get_extension_by_name("axis.hub.v1.info").ok_or("no option `info`")?;
    let (mut list, mut arms) = (String::new(), String::new());
    for reason in reasons.values() {
        let variant = variant(reason.name(), "REASON_");
        let options = reason.options();
        if !options.has_extension(&option) {
            if reason.number() == 0 {
                let text = r#"(Remedy::Unspecified, "No reason was given.", "Không có lý do.")"#;
                writeln!(arms, "        Reason::{variant} => {text},")?;
                continue;
            }
            return Err(format!("{} has no info", reason.name()).into());
        }
        let info = options.get_extension(&option);
        let info = info.as_message().ok_or("`info` is no message")?;
        let number = field(info, "remedy")?.as_enum_number().ok_or("`remedy` is no enum")?;
        let remedy = remedies.get_value(number).ok_or("no such remedy")?;
        let remedy = self::variant(remedy.name(), "REMEDY_");
        let (en, vi) = (field(info, "en")?, field(info, "vi")?);
        let (en, vi) = (en.as_str().ok_or("`en` is no text")?, vi.as_str().ok_or("`vi` is no text")?);
        writeln!(list, "    Reason::{variant},")?;
        writeln!(arms, "        Reason::{variant} => (Remedy::{remedy}, {en:?}, {vi:?}),")?;
    }
    Ok(format!(
        "const REASONS: &[Reason] = &[\n{list}];\n\n\
         const fn info(reason: Reason) -> (Remedy, &'static str, &'static str) {{\n    \
         match reason {{\n{arms}    }}\n}}\n"
    ))
}

fn field(message: &DynamicMessage, name: &str) -> Result<Value, Box<dyn Error>> {
    Ok(message.get_field_by_name(name).ok_or_else(|| format!("no field `{name}`"))?.into_owned())
}

/// `REASON_TOO_LARGE` as Rust writes it: `TooLarge`.
fn variant(name: &str, prefix: &str) -> String {
    let words = name.strip_prefix(prefix).unwrap_or(name).split('_');
    words.map(|word| format!("{}{}", &word[..1], word[1..].to_ascii_lowercase())).collect()
}
