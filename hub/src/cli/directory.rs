//! `agency` and `group`: who can be addressed.

use std::path::Path;

use axis_hub::observe::words;
use axis_proto::{
    admin::v1::{ListAgenciesRequest, ListGroupMembersRequest, ListGroupsRequest},
    id::AgencyCode,
    reason::Language,
    record::v1::{Agency, AgencyState, Group, GroupMembers, directory_entry::Value},
};

use super::{
    admin::{Admin, change_directory, violations},
    args::{AgencyCommand, AgencyFacts, GroupCommand},
    import, json,
    say::{Failure, Progress, Result, language, put, say, tr},
    table::Table,
};

/// The longest page of a list.
const PAGE_MAX: u32 = 1_000;

/// `axis-hub agency …`
pub async fn agency(mut admin: Admin, command: AgencyCommand) -> Result<()> {
    match command {
        AgencyCommand::Add { code, name, facts } => {
            if find(&mut admin, &code).await?.is_some() {
                return Err(Failure::new(format!(
                    "{code} {}",
                    tr("is in the directory already", "đã có trong danh mục")
                ))
                .hint(format!("`axis-hub agency change {code} …`")));
            }
            let mut agency =
                Agency { code: code.to_string(), state: AgencyState::Active.into(), ..Agency::default() };
            apply(&mut agency, Some(name), facts);
            change(&mut admin, vec![Value::Agency(agency)], String::new()).await?;
            say(format!("{} {code}", tr("added", "đã thêm")));
        }
        AgencyCommand::Change { code, name, facts, remark } => {
            let mut agency = must_find(&mut admin, &code).await?;
            apply(&mut agency, name, facts);
            change(&mut admin, vec![Value::Agency(agency)], remark).await?;
            say(format!("{} {code}", tr("changed", "đã cập nhật")));
        }
        AgencyCommand::List { containing, output } => {
            let agencies = list(&mut admin, &containing).await?;
            if output.json {
                json::put(&agencies.iter().map(json::agency).collect());
            } else {
                put(table(&agencies).to_string());
            }
        }
        AgencyCommand::Close { code, successors, remark } => {
            let mut agency = must_find(&mut admin, &code).await?;
            agency.set_state(AgencyState::Closed);
            agency.successors = successors.iter().map(ToString::to_string).collect();
            change(&mut admin, vec![Value::Agency(agency)], remark).await?;
            say(format!("{} {code}", tr("closed", "đã đóng")));
        }
        AgencyCommand::Import { file, dry_run } => import_file(admin, &file, dry_run).await?,
    }
    Ok(())
}

/// `axis-hub group …`
pub async fn group(mut admin: Admin, command: GroupCommand) -> Result<()> {
    match command {
        GroupCommand::Add { group, name, everyone, senders } => {
            let group_id = group.to_string();
            if groups(&mut admin).await?.iter().any(|found| found.group_id == group_id) {
                return Err(Failure::new(format!("{group} {}", tr("exists already", "đã tồn tại"))));
            }
            let senders_allowed = senders.iter().map(ToString::to_string).collect();
            let entry = Group { group_id, name, everyone, senders_allowed, closed: false };
            change(&mut admin, vec![Value::Group(entry)], String::new()).await?;
            say(format!("{} {group}", tr("added", "đã thêm")));
        }
        GroupCommand::Members { group, added, removed, output } => {
            if added.is_empty() && removed.is_empty() {
                let members = members(&mut admin, group.as_str()).await?;
                match output.json {
                    true => json::put(&members.into()),
                    false => members.iter().for_each(put),
                }
                return Ok(());
            }
            for entry in memberships(group.as_str(), &added, &removed) {
                change(&mut admin, vec![entry], String::new()).await?;
            }
            say(format!("{} {group}", tr("changed", "đã cập nhật")));
        }
        GroupCommand::List(output) => {
            let groups = groups(&mut admin).await?;
            if output.json {
                json::put(&groups.iter().map(json::group).collect());
                return Ok(());
            }
            let mut table = match language() {
                Language::Vi => Table::new(["Nhóm", "Thành viên", "Được gửi", "Tên"]),
                Language::En => Table::new(["Group", "Members", "Senders", "Name"]),
            };
            for group in groups {
                let whole = tr("everyone", "tất cả");
                table.row([
                    group.group_id,
                    if group.everyone { whole } else { tr("listed", "theo danh sách") }.to_owned(),
                    if group.senders_allowed.is_empty() {
                        whole.to_owned()
                    } else {
                        group.senders_allowed.join(" ")
                    },
                    group.name,
                ]);
            }
            put(table.to_string());
        }
    }
    Ok(())
}

/// Most codes in one entry, which is a record of its own.
const MEMBERS_MAX: usize = 400;

fn memberships(group: &str, added: &[AgencyCode], removed: &[AgencyCode]) -> Vec<Value> {
    let codes = |codes: &[AgencyCode]| codes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let entry =
        |added, removed| Value::GroupMembers(GroupMembers { group_id: group.to_owned(), added, removed });
    let joins = added.chunks(MEMBERS_MAX).map(|chunk| entry(codes(chunk), Vec::new()));
    let leaves = removed.chunks(MEMBERS_MAX).map(|chunk| entry(Vec::new(), codes(chunk)));
    joins.chain(leaves).collect()
}

async fn import_file(mut admin: Admin, file: &Path, dry_run: bool) -> Result<()> {
    let shown = file.display();
    let text = std::fs::read(file).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    let rows = import::parse(&text).map_err(|error| {
        Failure::new(format!("{shown}:{}: {}", error.line, error.words))
            .hint("code,name,parent,system,aliases")
            .hint(tr(
                "save it as CSV in UTF-8; nothing was written",
                "hãy lưu tệp dạng CSV UTF-8; chưa ghi gì cả",
            ))
    })?;
    let known = list(&mut admin, "").await?;
    let plan = import::plan(rows, &known);
    let (total, unchanged) = (plan.entries.len(), plan.unchanged);
    let summary = match language() {
        Language::Vi => {
            format!("{} cần thêm, {} cần cập nhật, {unchanged} giữ nguyên", plan.added, total - plan.added)
        }
        Language::En => {
            format!("{} to add, {} to change, {unchanged} unchanged", plan.added, total - plan.added)
        }
    };
    say(summary);
    if dry_run {
        return Ok(());
    }
    let (mut written, progress) = (0, Progress::new(total));
    for chunk in import::chunks(&plan.entries) {
        let values = chunk.iter().map(|(_, agency)| Value::Agency(agency.clone())).collect();
        let remark = format!("import of {total} agencies");
        if let Err(status) = change_directory(&mut admin, values, remark).await {
            let lines = import::lines_of(&violations(&status), chunk);
            let mut failure = Failure::from(status);
            if !lines.is_empty() {
                let which = tr("the refused lines of", "các dòng bị từ chối của");
                failure = failure.hint(format!("{which} {shown}: {}", lines.join(", ")));
            }
            return Err(failure.hint(match language() {
                Language::Vi => {
                    format!("đã ghi {written}/{total}; sửa rồi chạy lại, phần đã ghi sẽ được bỏ qua")
                }
                Language::En => {
                    format!("{written} of {total} are written; correct and run it again, those are skipped")
                }
            }));
        }
        written += chunk.len();
        progress.at(written);
    }
    say(format!("{} {total}", tr("imported", "đã nhập")));
    Ok(())
}

/// Puts what was said into an agency; what was not said stays.
fn apply(agency: &mut Agency, name: Option<String>, facts: AgencyFacts) {
    let AgencyFacts { name_en, parent, system, aliases } = facts;
    let said = [
        (&mut agency.name, name),
        (&mut agency.name_en, name_en),
        (&mut agency.parent, parent),
        (&mut agency.system, system),
    ];
    for (field, value) in said {
        if let Some(value) = value {
            *field = value;
        }
    }
    if !aliases.is_empty() {
        agency.aliases = aliases;
    }
}

async fn change(admin: &mut Admin, values: Vec<Value>, remark: String) -> Result<()> {
    Ok(change_directory(admin, values, remark).await?)
}

async fn find(admin: &mut Admin, code: &AgencyCode) -> Result<Option<Agency>> {
    Ok(list(admin, code.as_str()).await?.into_iter().find(|agency| agency.code == code.as_str()))
}

async fn must_find(admin: &mut Admin, code: &AgencyCode) -> Result<Agency> {
    find(admin, code).await?.ok_or_else(|| {
        Failure::new(format!("{} {code}", tr("no agency has the code", "không có cơ quan nào mang mã")))
            .hint("`axis-hub agency list --containing …`")
    })
}

async fn list(admin: &mut Admin, containing: &str) -> Result<Vec<Agency>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let containing = containing.to_owned();
        let request = ListAgenciesRequest { after, max_agencies: PAGE_MAX, containing };
        let page = admin.list_agencies(request).await?.into_inner();
        all.extend(page.agencies);
        after = page.next_after;
        if after.is_empty() {
            return Ok(all);
        }
    }
}

async fn groups(admin: &mut Admin) -> Result<Vec<Group>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.list_groups(ListGroupsRequest { after, max_groups: PAGE_MAX }).await?.into_inner();
        all.extend(page.groups);
        after = page.next_after;
        if after.is_empty() {
            return Ok(all);
        }
    }
}

async fn members(admin: &mut Admin, group: &str) -> Result<Vec<String>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let request = ListGroupMembersRequest { group_id: group.to_owned(), after, max_members: PAGE_MAX };
        let page = admin.list_group_members(request).await?.into_inner();
        all.extend(page.members);
        after = page.next_after;
        if after.is_empty() {
            return Ok(all);
        }
    }
}

fn table(agencies: &[Agency]) -> Table {
    let mut table = match language() {
        Language::Vi => Table::new(["Mã định danh", "Trạng thái", "Hệ thống", "Cấp trên", "Tên"]),
        Language::En => Table::new(["Code", "State", "System", "Parent", "Name"]),
    };
    for agency in agencies {
        table.row([
            agency.code.clone(),
            words::agency_state(language(), agency.state()).to_owned(),
            or_dash(&agency.system),
            or_dash(&agency.parent),
            agency.name.clone(),
        ]);
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}
