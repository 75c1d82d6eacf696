//! Messages in protobuf's own JSON form, with the names of the proto files,
//! so that any protobuf library can compare its own reading.

use axis_proto::FILE_DESCRIPTOR_SET;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _};
use serde_json::{Map, Value, json};

/// The message of this type and these bytes; `None` if it cannot be read.
pub fn decoded(message: &str, bytes: &[u8]) -> Option<Value> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the compiled contract is one");
    let descriptor = pool.get_message_by_name(message).expect("a message of the contract");
    DynamicMessage::decode(descriptor, bytes).ok().map(|message| object(&message))
}

fn object(message: &DynamicMessage) -> Value {
    assert_eq!(message.descriptor().full_name().split('.').next(), Some("axis"));
    let fields = message.fields().map(|(field, found)| (field.name().to_owned(), value(&field, found)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn value(field: &FieldDescriptor, found: &prost_reflect::Value) -> Value {
    use prost_reflect::Value as Found;
    match found {
        Found::List(list) => list.iter().map(|entry| value(field, entry)).collect(),
        Found::Message(message) => object(message),
        Found::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => kind.get_value(*number).map_or(json!(number), |known| json!(known.name())),
            _ => json!(number),
        },
        Found::Bool(flag) => json!(flag),
        Found::U32(number) => json!(number),
        Found::U64(number) => json!(number.to_string()),
        Found::String(text) => json!(text),
        Found::Bytes(bytes) => json!(STANDARD.encode(bytes)),
        other => unreachable!("the contract has no {other:?}"),
    }
}
