//! What operators do, in a line.

use std::path::Path;

use anyhow::Context as _;
use axis_proto::{
    admin::v1::{AddSystemRequest, ChangeDirectoryRequest, admin_service_client::AdminServiceClient},
    record::v1::{Agency, AgencyState, DirectoryEntry, Group, directory_entry::Value},
};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// The admin service of a hub.
pub type Admin = AdminServiceClient<Channel>;

/// Connects to the admin socket in a hub's directory.
pub async fn admin(dir: &Path) -> anyhow::Result<Admin> {
    let socket = dir.join("admin.sock");
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://admin").connect_with_connector(connect).await?;
    Ok(AdminServiceClient::new(channel))
}

/// Adds agencies that no system serves yet.
pub async fn add_agencies(admin: &mut Admin, codes: &[&str]) -> anyhow::Result<()> {
    for part in codes.chunks(90) {
        let entries = part.iter().map(|code| {
            let agency = Agency {
                code: (*code).to_owned(),
                name: format!("Cơ quan {code}"),
                state: AgencyState::Active.into(),
                ..Agency::default()
            };
            DirectoryEntry { value: Some(Value::Agency(agency)) }
        });
        let request = ChangeDirectoryRequest { entries: entries.collect(), remark: String::new() };
        admin.change_directory(request).await.context("adding agencies")?;
    }
    Ok(())
}

/// Adds a group of everyone.
pub async fn add_everyone(admin: &mut Admin, id: &str) -> anyhow::Result<()> {
    let group =
        Group { group_id: id.to_owned(), name: "Tất cả".to_owned(), everyone: true, ..Group::default() };
    let entries = vec![DirectoryEntry { value: Some(Value::Group(group)) }];
    admin.change_directory(ChangeDirectoryRequest { entries, remark: String::new() }).await?;
    Ok(())
}

/// Adds a system that serves new agencies, and returns its enrolment token.
pub async fn add_system(admin: &mut Admin, system: &str, codes: &[&str]) -> anyhow::Result<String> {
    add_agencies(admin, codes).await?;
    let request = AddSystemRequest {
        system_id: system.to_owned(),
        name: format!("Hệ thống {system}"),
        agencies: codes.iter().map(|code| (*code).to_owned()).collect(),
    };
    let answer = admin.add_system(request).await.with_context(|| format!("adding system {system}"))?;
    Ok(answer.into_inner().token)
}
