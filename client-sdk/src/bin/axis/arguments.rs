//! The command line of `axis`. Its help comes from the catalogue, in the
//! user's language.

use std::path::PathBuf;

use axis_client::{
    Language,
    proto::{
        envelope::v1::Priority,
        id::{AgencyCode, EnvelopeId, GroupId, KeyId},
    },
};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};

use crate::words::HELP;

#[derive(Debug, Parser)]
#[command(name = "axis", version, arg_required_else_help = true)]
pub struct Arguments {
    #[arg(long, global = true, env = "AXIS_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    #[arg(long, global = true, value_name = "vi|en", value_parser = language)]
    pub lang: Option<Language>,
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Enroll(Enroll),
    Send(Box<Send>),
    Receive(Receive),
    Track(Track),
    Feed(Feed),
    #[command(subcommand)]
    Agency(Agency),
    Verify(Verify),
    Reconcile,
    #[command(subcommand)]
    Log(Log),
}

#[derive(Debug, Args)]
pub struct Enroll {
    #[arg(value_name = "TOKEN", required_unless_present_any = ["renew", "revoke_signing_key"])]
    pub token: Option<String>,
    #[arg(long)]
    pub renew: bool,
    #[arg(long, requires = "renew", conflicts_with = "token")]
    pub signing_key: bool,
    #[arg(long, value_name = "KEY_ID", conflicts_with_all = ["token", "renew"])]
    pub revoke_signing_key: Option<KeyId>,
}

#[derive(Debug, Args)]
pub struct Send {
    #[arg(long, value_name = "CODE", required_unless_present = "pending")]
    pub from: Option<AgencyCode>,
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub to: Vec<AgencyCode>,
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub cc: Vec<AgencyCode>,
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    pub group: Vec<GroupId>,
    #[arg(long, value_name = "TEXT", required_unless_present = "pending")]
    pub subject: Option<String>,
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub number: String,
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub notation: String,
    #[arg(long = "type", value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub kind: String,
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub content: String,
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub place: String,
    #[arg(long, value_name = "DATE", default_value = "", hide_default_value = true)]
    pub date: String,
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub signer: String,
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, requires = "signer")]
    pub position: String,
    #[arg(long, value_name = "DATE", default_value = "", hide_default_value = true)]
    pub due: String,
    #[arg(long, value_name = "PRIORITY", value_parser = priority, default_value = "normal", hide_default_value = true)]
    pub priority: Priority,
    #[arg(long, value_name = "SENDER/ID")]
    pub reply_to: Option<String>,
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=366))]
    pub expires_days: Option<u32>,
    #[arg(long, value_name = "ID")]
    pub id: Option<EnvelopeId>,
    #[arg(long, conflicts_with_all = ["files", "from", "subject"])]
    pub pending: bool,
    #[arg(value_name = "FILE", required_unless_present = "pending")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Receive {
    #[arg(long)]
    pub follow: bool,
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub into: PathBuf,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
    #[arg(long, overrides_with = "no_ack")]
    pub ack: bool,
    #[arg(long, overrides_with = "ack")]
    pub no_ack: bool,
}

#[derive(Debug, Args)]
pub struct Track {
    #[arg(value_name = "ENVELOPE_ID")]
    pub envelope_id: EnvelopeId,
    #[arg(long, value_name = "CODE")]
    pub sender: Option<AgencyCode>,
    #[arg(long)]
    pub signed: bool,
}

#[derive(Debug, Args)]
pub struct Feed {
    #[arg(long)]
    pub follow: bool,
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Agency {
    List(List),
    Show(Show),
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub text: String,
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub max: usize,
}

#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_name = "CODE")]
    pub code: String,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[arg(value_name = "RECEIPT", required = true, action = ArgAction::Append)]
    pub receipts: Vec<PathBuf>,
    #[arg(long, value_name = "VKEY")]
    pub key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Log {
    Show,
    Accept(Accept),
}

#[derive(Debug, Args)]
pub struct Accept {
    #[arg(long, value_name = "VKEY")]
    pub key: String,
}

/// The command with help in one language.
pub fn command(language: Language) -> clap::Command {
    localised(Arguments::command(), "", language).after_help(help("after", language))
}

fn localised(command: clap::Command, path: &str, language: Language) -> clap::Command {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    command
        .about(help(path, language))
        .mut_args(|argument| {
            let text = help(&below(argument.get_id().as_str()), language);
            if text.is_empty() { argument } else { argument.help(text) }
        })
        .mut_subcommands(|inner| {
            let path = below(inner.get_name());
            localised(inner, &path, language)
        })
}

fn help(path: &str, language: Language) -> &'static str {
    let found = HELP.iter().find(|(name, ..)| *name == path);
    found.map_or("", |(_, en, vi)| if language == Language::Vi { vi } else { en })
}

/// The language that was asked for before anything else is read, so that help
/// and usage errors have it too.
pub fn preferred_language(arguments: &[String]) -> Language {
    let mut asked = arguments.iter().enumerate().filter_map(|(index, argument)| match argument.as_str() {
        "--lang" => arguments.get(index + 1).map(String::as_str),
        other => other.strip_prefix("--lang="),
    });
    if let Some(asked) = asked.next() {
        return Language::preferred(asked);
    }
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    Language::preferred(&locale.unwrap_or_default())
}

fn language(text: &str) -> Result<Language, String> {
    match text {
        "vi" => Ok(Language::Vi),
        "en" => Ok(Language::En),
        _ => Err("vi | en".to_owned()),
    }
}

/// Priorities as officials write them, with or without marks, and in English.
pub fn priority(text: &str) -> Result<Priority, String> {
    let plain: String = text.trim().to_lowercase().chars().map(unmarked).collect();
    match plain.as_str() {
        "normal" | "thuong" => Ok(Priority::Normal),
        "urgent" | "khan" => Ok(Priority::Urgent),
        "very-urgent" | "thuong-khan" => Ok(Priority::VeryUrgent),
        "express" | "hoa-toc" => Ok(Priority::Express),
        "express-timed" | "hoa-toc-hen-gio" => Ok(Priority::ExpressTimed),
        _ => Err("thuong | khan | thuong-khan | hoa-toc | hoa-toc-hen-gio".to_owned()),
    }
}

fn unmarked(c: char) -> char {
    match c {
        'ư' | 'ứ' | 'ừ' | 'ử' | 'ữ' | 'ự' => 'u',
        'ơ' | 'ờ' | 'ợ' | 'ớ' | 'ở' | 'ó' | 'ò' | 'ỏ' | 'ố' | 'ồ' | 'ô' => 'o',
        'ẩ' | 'ấ' | 'ầ' | 'â' | 'à' | 'á' | 'ả' => 'a',
        'ẹ' | 'é' | 'è' | 'ẻ' => 'e',
        ' ' | '_' => '-',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_and_argument_is_explained_in_both_languages() {
        fn paths(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            found.insert(path.to_owned());
            let ours = |id: &str| !["help", "version"].contains(&id);
            found.extend(
                command.get_arguments().map(|it| it.get_id().as_str()).filter(|id| ours(id)).map(below),
            );
            for inner in command.get_subcommands() {
                paths(inner, &below(inner.get_name()), found);
            }
        }
        let mut found = BTreeSet::from(["after".to_owned()]);
        paths(&Arguments::command(), "", &mut found);
        let written: BTreeSet<String> = HELP.iter().map(|(path, ..)| (*path).to_owned()).collect();
        assert_eq!(found, written);
        assert!(HELP.iter().all(|(_, en, vi)| !en.is_empty() && !vi.is_empty()));
        command(Language::Vi).debug_assert();
        assert!(command(Language::Vi).render_help().to_string().contains("Kiểm tra biên nhận"));
    }

    #[test]
    fn priorities_as_officials_write_them() {
        for (text, expected) in [
            ("hoa-toc", Priority::Express),
            ("Hỏa tốc", Priority::Express),
            ("hoả tốc hẹn giờ", Priority::ExpressTimed),
            ("thượng khẩn", Priority::VeryUrgent),
            ("KHẨN", Priority::Urgent),
            ("thường", Priority::Normal),
            ("express", Priority::Express),
        ] {
            assert_eq!(priority(text), Ok(expected), "{text}");
        }
        assert!(priority("soon").is_err());
    }

    #[test]
    fn the_language_is_known_before_the_rest() {
        let language = |arguments: &[&str]| {
            preferred_language(&arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(language(&["axis", "--lang", "vi", "send"]), Language::Vi);
        assert_eq!(language(&["axis", "send", "--lang=vi"]), Language::Vi);
        assert_eq!(language(&["axis", "--lang", "en"]), Language::En);
    }
}
