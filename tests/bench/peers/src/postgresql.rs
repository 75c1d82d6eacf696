//! PostgreSQL as a queue, as many build one: a transaction for each accept,
//! lease and acknowledgement, leases with `SKIP LOCKED`, row by row.
//!
//! Seen with strace (15, 3 s): 804 fdatasyncs of its log for 8 500 accepts, 1 280
//! for some 3 000 whole cycles: commits of several connections share one.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use rustix::process::Signal;
use std::os::unix::process::CommandExt as _;
use tokio_postgres::{Client, Config, NoTls, Statement, config::SslMode};

use crate::{
    Setup,
    load::{Cycle, Figures, Peer, RECIPIENTS, Span, Work, measure},
    server::{Server, free_port, give, user_instead_of_root},
};

/// Connections that accept: a commit each at once, which share a sync.
const CONNECTIONS: usize = 32;
/// Connections that lease and acknowledge; as many for each recipient.
const CONSUMERS: usize = 16;
/// Between two looks at a queue that was empty.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// What runs, and what initdb makes of its user.
const USER: &str = "postgres";

/// As it comes, but for memory and the distance of checkpoints; `fsync`,
/// `synchronous_commit` and `full_page_writes` are said because all hangs on
/// them.
const SETTINGS: [&str; 8] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "max_connections=100",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
];

/// Bodies are kept as they are and beside the row, so that a lease does not
/// write them again.
const SCHEMA: &str = "
    CREATE TABLE letter (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        recipient int NOT NULL,
        leased_until timestamptz NOT NULL DEFAULT '-infinity',
        body bytea NOT NULL
    ) WITH (fillfactor = 70);
    ALTER TABLE letter ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE INDEX queue ON letter (recipient, id);";
const ACCEPT: &str = "INSERT INTO letter (recipient, body) VALUES ($1, $2)";
const LEASE: &str = "
    UPDATE letter SET leased_until = now() + interval '1 minute'
    WHERE id = (
        SELECT id FROM letter WHERE recipient = $1 AND leased_until < now()
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, body";
const ACKNOWLEDGE: &str = "DELETE FROM letter WHERE id = $1";

/// Starts it and does one work.
pub async fn run(setup: &Setup, work: Work, span: Span) -> anyhow::Result<Figures> {
    let dir = setup.dir.path();
    let user = user_instead_of_root(USER)?;
    if let Some(user) = user {
        give(dir, user)?;
    }
    let (bin, data, port) = (setup.places.postgresql()?, dir.join("data"), free_port()?);
    let program = |name: &str| {
        let mut command = Command::new(bin.join(name));
        command.current_dir(dir);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command
    };
    make(program("initdb"), &data).await?;
    let mut command = program("postgres");
    command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
    let tls = setup.tls.as_ref().map(|tls| {
        [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", tls.certificate.display()),
            format!("ssl_key_file={}", tls.key.display()),
        ]
    });
    for setting in SETTINGS.map(str::to_owned).into_iter().chain(tls.into_iter().flatten()) {
        command.args(["-c", &setting]);
    }
    // SIGQUIT: at once, and its shared memory goes too
    let mut server = Server::start("postgresql", command, Signal::QUIT, dir.join("postgresql.log"))?;
    let connect = || connect(setup, port);
    server.ready(connect).await?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS + CONSUMERS {
        clients.push(connect().await?);
    }
    measure(Arc::new(Table::make(clients).await?), &server, work, span).await
}

async fn make(mut initdb: Command, data: &Path) -> anyhow::Result<()> {
    initdb.arg("-D").arg(data).args([
        "--data-checksums",
        "--auth=trust",
        "--no-locale",
        "--encoding=UTF8",
        "--username",
        USER,
    ]);
    let output = tokio::process::Command::from(initdb).kill_on_drop(true).output().await.context("initdb")?;
    anyhow::ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn connect(setup: &Setup, port: u16) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(USER).dbname("postgres");
    // whoever connects drives it: the connection ends with its client
    match &setup.tls {
        None => {
            let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
            tokio::spawn(connection);
            Ok(client)
        }
        Some(tls) => {
            let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.client()?);
            let (client, connection) = config.ssl_mode(SslMode::Require).connect(tls).await?;
            tokio::spawn(connection);
            Ok(client)
        }
    }
}

struct Table {
    accepting: Vec<(Client, Statement)>,
    consuming: Vec<(Client, Statement, Statement)>,
}

impl Table {
    async fn make(mut clients: Vec<Client>) -> anyhow::Result<Self> {
        clients[0].batch_execute(SCHEMA).await?;
        let mut consuming = Vec::new();
        for client in clients.drain(CONNECTIONS..) {
            let (lease, acknowledge) = (client.prepare(LEASE).await?, client.prepare(ACKNOWLEDGE).await?);
            consuming.push((client, lease, acknowledge));
        }
        let mut accepting = Vec::new();
        for client in clients {
            let accept = client.prepare(ACCEPT).await?;
            accepting.push((client, accept));
        }
        Ok(Self { accepting, consuming })
    }
}

impl Peer for Table {
    const CONSUMERS: usize = CONSUMERS;

    /// Lanes of one connection are pipelined; each statement is a transaction
    /// of its own all the same.
    async fn accept(&self, lane: usize, body: Bytes) -> anyhow::Result<()> {
        let (client, accept) = &self.accepting[lane % CONNECTIONS];
        client.execute(accept, &[&((lane % RECIPIENTS) as i32), &body.as_ref()]).await?;
        Ok(())
    }

    async fn consume(&self, lane: usize, cycle: &Cycle) -> anyhow::Result<()> {
        let (client, lease, acknowledge) = &self.consuming[lane];
        let recipient = (lane % RECIPIENTS) as i32;
        loop {
            let Some(row) = client.query_opt(lease, &[&recipient]).await? else {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            };
            let deleted = client.execute(acknowledge, &[&row.get::<_, i64>(0)]).await?;
            anyhow::ensure!(deleted == 1, "{deleted} rows were acknowledged");
            cycle.acknowledged(row.get(1))?;
        }
    }

    async fn kept(&self) -> anyhow::Result<u64> {
        let row = self.accepting[0].0.query_one("SELECT count(*) FROM letter", &[]).await?;
        Ok(row.get::<_, i64>(0) as u64)
    }
}
