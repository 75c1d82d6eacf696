//! What may be typed.

use std::path::PathBuf;

use axis_proto::{
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, GroupId, HubId, KeyId, SystemId},
    reason::Language,
};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// The hub of Axis: verifies signed envelopes, keeps them until each
/// recipient has taken them, and proves what happened.
#[derive(Debug, Parser)]
#[command(
    name = "axis-hub",
    version,
    propagate_version = true,
    after_help = "Results go to stdout, everything else to stderr.\n\n\
        Exit codes: 0 done; 1 refused or failed; 2 the command line is wrong;\n\
        3 the hub cannot be reached; 4 fsck found damage."
)]
pub struct Args {
    /// The hub's directory.
    #[arg(long, global = true, env = "AXIS_HUB_DIR", default_value = "axis-hub", value_name = "DIR")]
    pub dir: PathBuf,
    /// Language of what is printed for people. By default that of the locale.
    #[arg(long, global = true, value_enum)]
    pub lang: Option<Lang>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A language that the hub speaks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Lang {
    /// Tiếng Việt.
    Vi,
    /// English.
    En,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::Vi => Self::Vi,
            Lang::En => Self::En,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a hub: its directory, settings, keys and an empty journal.
    Init(Init),
    /// Run the hub until SIGTERM or SIGINT.
    Serve,
    /// Connected systems: add, list, suspend, resume, and tokens to enrol.
    #[command(subcommand)]
    System(SystemCommand),
    /// Agencies of the directory.
    #[command(subcommand)]
    Agency(AgencyCommand),
    /// Groups of agencies that can be addressed together.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Systems' signing keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Systems' TLS certificates.
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// What waits, for each system.
    Queue(Output),
    /// Deliveries that are out of attempts and wait for an operator.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// Where an envelope is, for each of its recipients.
    Track(Track),
    /// Erase an envelope's content at once, after a spill. Two people: one
    /// requests, another confirms within 24 hours.
    #[command(subcommand)]
    Purge(PurgeCommand),
    /// Journal files that were copied away.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// The hub's clock.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// How the hub does.
    Status(Output),
    /// What waits and how the hub does, every second.
    Top(Top),
    /// Check every invariant of a hub that is not running.
    Fsck(Output),
    /// Make the state of a hub that is not running anew, from its journal.
    Rebuild,
    /// Bring a backup of the hub up to date, while it runs or not: copies what
    /// is new and reads it back. Needs and copies no private key.
    Backup(Backup),
    /// Make a hub in --dir, where nothing may be, from a backup. Its log goes
    /// on under a new name.
    Restore(Restore),
}

/// How to print a result.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct Output {
    /// Print JSON, for machines.
    #[arg(long)]
    pub json: bool,
}

/// A backup to make.
#[derive(Debug, ClapArgs)]
pub struct Backup {
    /// The backup's directory, on another disk.
    #[arg(value_name = "BACKUP")]
    pub directory: PathBuf,
    /// Only read every byte of the backup that is there and say whether it is
    /// whole. Needs no hub.
    #[arg(long)]
    pub verify: bool,
    /// How to print it.
    #[command(flatten)]
    pub output: Output,
}

/// A hub to make from a backup.
#[derive(Debug, ClapArgs)]
pub struct Restore {
    /// The backup's directory, or an old copy of a hub's directory.
    #[arg(value_name = "BACKUP")]
    pub backup: PathBuf,
    /// Where the old hub's keys are: checkpoint.pem, authority.pem,
    /// authority.crt. They are copied.
    #[arg(long, value_name = "DIR", required_unless_present = "new_key")]
    pub keys: Option<PathBuf>,
    /// Make a new checkpoint key. Without --keys the authority is new too, and
    /// every system has to enrol anew.
    #[arg(long)]
    pub new_key: bool,
    /// How to print it.
    #[command(flatten)]
    pub output: Output,
}

/// Why it is done.
#[derive(Debug, ClapArgs)]
pub struct Remark {
    /// Why; kept in the journal with your name.
    #[arg(long, value_name = "TEXT")]
    pub remark: String,
}

/// A hub to make.
#[derive(Debug, ClapArgs)]
pub struct Init {
    /// Where to make it. By default what --dir says.
    #[arg(id = "path", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Its settings.
    #[command(flatten)]
    pub settings: InitSettings,
}

/// What `init` writes into `hub.toml`; everything can be changed there later,
/// but for the name.
#[derive(Debug, ClapArgs)]
pub struct InitSettings {
    /// Name of the hub, as envelopes must name it: 1 to 64 of `a-z 0-9 . -`.
    #[arg(long, value_name = "ID")]
    pub hub_id: HubId,
    /// Where systems reach the hub, a host or HOST:PORT; a second one is where
    /// they enrol. By default where it listens.
    #[arg(long = "public-address", value_name = "HOST:PORT", num_args = 1..)]
    pub public_addresses: Vec<String>,
    /// Where to listen for systems. Port 0 takes a free one, here and below.
    #[arg(long, value_name = "IP:PORT")]
    pub listen_systems: Option<std::net::SocketAddr>,
    /// Where to listen for enrolment.
    #[arg(long, value_name = "IP:PORT")]
    pub listen_enrolment: Option<std::net::SocketAddr>,
    /// Where to listen for operators.
    #[arg(long, value_name = "IP:PORT")]
    pub listen_operators: Option<std::net::SocketAddr>,
}

/// Connected systems.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Add a system; prints its enrolment token, alone, on stdout.
    Add {
        /// Its id: 1 to 32 of `a-z 0-9 -`, a letter first.
        system: SystemId,
        /// Its name.
        #[arg(long)]
        name: String,
        /// An agency of the directory that it serves; may be given again.
        #[arg(long = "agency", value_name = "CODE")]
        agencies: Vec<AgencyCode>,
    },
    /// List the systems with their agencies' count, certificates and keys.
    List(Output),
    /// Suspend a system, at once, on open connections too.
    Suspend {
        /// The system.
        system: SystemId,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
    /// Let a suspended system act again.
    Resume {
        /// The system.
        system: SystemId,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
    /// Make a further enrolment token; prints it, alone, on stdout.
    Token {
        /// The system.
        system: SystemId,
    },
}

/// What is said about an agency.
#[derive(Debug, Default, ClapArgs)]
pub struct AgencyFacts {
    /// Its name in English.
    #[arg(long, value_name = "NAME")]
    pub name_en: Option<String>,
    /// Code of the agency above it; empty for none.
    #[arg(long, value_name = "CODE")]
    pub parent: Option<String>,
    /// The system that serves it; empty for none.
    #[arg(long, value_name = "SYSTEM")]
    pub system: Option<String>,
    /// Another code it is or was known by, for look-up only; may be given
    /// again. Those given replace those before.
    #[arg(long = "alias", value_name = "CODE")]
    pub aliases: Vec<String>,
}

/// Agencies.
#[derive(Debug, Subcommand)]
pub enum AgencyCommand {
    /// Add an agency.
    Add {
        /// Its code, such as H53.02.01 or 000.00.13.H53.
        code: AgencyCode,
        /// Its name.
        #[arg(long)]
        name: String,
        /// More about it.
        #[command(flatten)]
        facts: AgencyFacts,
    },
    /// Change what is said about an agency; what is not named stays.
    Change {
        /// Its code.
        code: AgencyCode,
        /// Its name.
        #[arg(long)]
        name: Option<String>,
        /// More about it.
        #[command(flatten)]
        facts: AgencyFacts,
        /// Why; kept in the journal with your name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        remark: String,
    },
    /// List agencies.
    List {
        /// Only those whose code or name contains this, ignoring case.
        #[arg(long, value_name = "TEXT", default_value = "")]
        containing: String,
        /// How to print them.
        #[command(flatten)]
        output: Output,
    },
    /// Close an agency for ever; senders are told who took over.
    Close {
        /// Its code.
        code: AgencyCode,
        /// One that took over; may be given again.
        #[arg(long = "successor", value_name = "CODE")]
        successors: Vec<AgencyCode>,
        /// Why; kept in the journal with your name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        remark: String,
    },
    /// Add and change many agencies from a CSV file (UTF-8) whose first line
    /// names its columns: code,name,parent,system,aliases. Safe to repeat:
    /// what is there already is skipped.
    Import {
        /// The file.
        file: PathBuf,
        /// Only say what would be written.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Add a group.
    Add {
        /// Its id: 1 to 64 of `a-z 0-9 - .`, a letter first.
        group: GroupId,
        /// Its name.
        #[arg(long)]
        name: String,
        /// It stands for every active, connected agency.
        #[arg(long)]
        everyone: bool,
        /// An agency that may send to it; may be given again. If none is
        /// given, all may.
        #[arg(long = "sender", value_name = "CODE")]
        senders: Vec<AgencyCode>,
    },
    /// List the members of a group, or let agencies join and leave it.
    Members {
        /// The group.
        group: GroupId,
        /// An agency that joins; may be given again.
        #[arg(long = "add", value_name = "CODE")]
        added: Vec<AgencyCode>,
        /// An agency that leaves; may be given again.
        #[arg(long = "remove", value_name = "CODE")]
        removed: Vec<AgencyCode>,
        /// How to print them.
        #[command(flatten)]
        output: Output,
    },
    /// List the groups.
    List(Output),
}

/// Signing keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List signing keys.
    List {
        /// Only this system's.
        #[arg(long)]
        system: Option<SystemId>,
        /// How to print them.
        #[command(flatten)]
        output: Output,
    },
    /// Limit which agencies a signing key may sign for, and until when; what
    /// is not named is without limit.
    Limit {
        /// Its id, as `key list` prints it.
        key: KeyId,
        /// An agency that it may sign for; repeat it for more.
        #[arg(long = "agency")]
        agencies: Vec<AgencyCode>,
        /// When its validity ends, such as `2026-12-31T17:00:00+07:00`.
        #[arg(long)]
        until: Option<jiff::Timestamp>,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
    /// Revoke a signing key, at once.
    Revoke {
        /// Its id, as `key list` prints it.
        key: KeyId,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
}

/// Certificates.
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// List certificates.
    List {
        /// Only this system's.
        #[arg(long)]
        system: Option<SystemId>,
        /// How to print them.
        #[command(flatten)]
        output: Output,
    },
    /// Register a system's certificate that another authority signed, which
    /// hub.toml trusts; prints its fingerprint.
    Register {
        /// The system that it identifies.
        system: SystemId,
        /// The certificate, PEM or DER.
        file: PathBuf,
        /// Why; kept in the journal with your name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        remark: String,
    },
    /// Revoke a certificate, at once, on open connections too.
    Revoke {
        /// SHA-256 of it, as `certificate list` prints it.
        fingerprint: Digest,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
}

/// Parked deliveries.
#[derive(Debug, Subcommand)]
pub enum ParkedCommand {
    /// List parked deliveries.
    List {
        /// Only this system's.
        #[arg(long)]
        system: Option<SystemId>,
        /// How to print them.
        #[command(flatten)]
        output: Output,
    },
    /// Put a parked delivery back into the queue.
    Requeue {
        /// The delivery, such as 12-0.
        delivery: DeliveryId,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
    /// Give a parked delivery back to its sender.
    Return {
        /// The delivery, such as 12-0.
        delivery: DeliveryId,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
}

/// An envelope to look for.
#[derive(Debug, ClapArgs)]
pub struct Track {
    /// The sender's id of the envelope.
    pub envelope: EnvelopeId,
    /// The sender's agency code.
    #[arg(long, value_name = "CODE")]
    pub sender: AgencyCode,
    /// How to print it.
    #[command(flatten)]
    pub output: Output,
}

/// An envelope's content to erase.
#[derive(Debug, Subcommand)]
pub enum PurgeCommand {
    /// Ask for it. Nothing is erased yet.
    Request {
        /// The sender's id of the envelope.
        envelope: EnvelopeId,
        /// The sender's agency code.
        #[arg(long, value_name = "CODE")]
        sender: AgencyCode,
        /// Why.
        #[command(flatten)]
        remark: Remark,
    },
    /// Agree to what another person asked for: what waits is returned to its
    /// sender, and content and documents are erased. Cannot be undone; safe to
    /// repeat.
    Confirm {
        /// The sender's id of the envelope.
        envelope: EnvelopeId,
        /// The sender's agency code.
        #[arg(long, value_name = "CODE")]
        sender: AgencyCode,
        /// How to print what was erased.
        #[command(flatten)]
        output: Output,
    },
}

/// Journal files.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// Verify journal files (`*.segment`) with no hub in reach, also after
    /// content was erased from them.
    Verify {
        /// The files, in any order; a run of files without gaps.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The verifier key that `axis-hub init` printed; checks the signatures
        /// of the checkpoints. Give it again with that of each log that
        /// `axis-hub restore` began.
        #[arg(long = "key", value_name = "VKEY")]
        keys: Vec<String>,
        /// A copy of the tree's directory (`data/tree`), for files that do not
        /// begin with the first record; proves that they belong to the log.
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
}

/// The clock.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ClockCommand {
    /// Vouch for the clock after it had jumped; deadlines act again.
    Confirm,
}

/// The live view.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct Top {
    /// Print it once and end.
    #[arg(long)]
    pub once: bool,
    /// The most systems to show, those with the most waiting first.
    #[arg(long, default_value_t = 20)]
    pub max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn ids_are_parsed_at_the_border() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("axis-hub system add vpcp --name x --agency G22 --agency 000.00.13.H53").is_ok());
        assert!(parse("axis-hub init /srv/hub --hub-id a.example --public-address a.example b:7444").is_ok());
        assert!(parse("axis-hub init --hub-id a.example --dir /srv/hub").is_ok());
        assert!(parse("axis-hub queue --json --dir /srv/hub --lang vi").is_ok());
        assert!(parse("axis-hub parked requeue 12-0 --remark again").is_ok());
        assert!(parse("axis-hub parked requeue 12-0").is_err(), "a remark is asked for");
        assert!(parse("axis-hub system add VPCP --name x").is_err());
        assert!(parse("axis-hub parked return twelve --remark x").is_err());
        assert!(parse("axis-hub track 12 --sender G22").is_err());
        let id = "0190a000-0000-7000-8000-000000000001";
        assert!(parse(&format!("axis-hub purge confirm {id} --sender G22")).is_ok());
        assert!(
            parse(&format!("axis-hub purge request {id} --sender G22")).is_err(),
            "a remark is asked for"
        );
        assert!(parse("axis-hub archive verify").is_err(), "a file is asked for");
    }
}
