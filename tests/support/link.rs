//! A poor link: a TCP proxy before a hub that is as slow as it is told to be,
//! breaks when it is told to, and counts what passed. Knows nothing of what
//! passes.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

/// What the system may hold of each direction: a link that is slow does not
/// take more than that ahead.
const BUFFER_BYTES: u32 = 16 * 1024;
/// How far a slow link may run ahead of its pace, and after: a timer's accuracy.
const PACE: Duration = Duration::from_millis(20);

/// A link to one hub. Gone when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    to: String,
    bytes_per_second: Option<u64>,
    up: AtomicU64,
    down: AtomicU64,
    cuts: AtomicU64,
    /// Rises with every cut; connections of before are closed.
    cut: watch::Sender<()>,
    /// Milliseconds after which each connection breaks; 0 if none does.
    life_ms: AtomicU64,
    /// Nothing passes any more, and nobody is told.
    hung: watch::Sender<bool>,
}

impl Link {
    /// A link to this address, at most so many bytes a second each way.
    pub async fn to(address: &str, bytes_per_second: Option<u64>) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if bytes_per_second.is_some() {
            socket.set_recv_buffer_size(BUFFER_BYTES)?;
            socket.set_send_buffer_size(BUFFER_BYTES)?;
        }
        socket.bind("127.0.0.1:0".parse()?)?;
        let listener = socket.listen(64)?;
        let address_here = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: address.to_owned(),
            bytes_per_second,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            cut: watch::Sender::new(()),
            life_ms: AtomicU64::new(0),
            hung: watch::Sender::new(false),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address: address_here, shared, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// A link before the hub of an enrolled home, which uses it from now on.
    pub async fn before(home: &Path, bytes_per_second: Option<u64>) -> anyhow::Result<Self> {
        let path = home.join("axis.toml");
        let mut profile: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let address = profile.get("hub_address").and_then(toml::Value::as_str).context("hub_address")?;
        let link = Self::to(address, bytes_per_second).await?;
        profile.insert("hub_address".to_owned(), link.address.to_string().into());
        std::fs::write(path, profile.to_string())?;
        Ok(link)
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        self.shared.cut.send_replace(());
    }

    /// Breaks every connection again and again, for as long as this runs.
    pub async fn cut_every(&self, interval: Duration) {
        let mut interval = tokio::time::interval(interval);
        interval.tick().await;
        loop {
            interval.tick().await;
            self.cut();
        }
    }

    /// Breaks each connection that is made from now on when it is so old.
    pub fn live_for(&self, life: Duration) {
        self.shared.life_ms.store(life.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets nothing pass any more, without a word: connections stay open.
    pub fn hang(&self) {
        self.shared.hung.send_replace(true);
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Bytes that passed to the hub.
    pub fn up(&self) -> u64 {
        self.shared.up.load(Ordering::SeqCst)
    }

    /// Bytes that passed from the hub.
    pub fn down(&self) -> u64 {
        self.shared.down.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let life = Duration::from_millis(shared.life_ms.load(Ordering::SeqCst));
            tokio::select! {
                _ = cut.changed() => {}
                () = tokio::time::sleep(life), if !life.is_zero() => {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                }
                _ = pass(client, &shared) => {}
            }
        });
    }
}

async fn pass(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let hub = TcpStream::connect(&shared.to).await?;
    for stream in [&client, &hub] {
        stream.set_nodelay(true)?;
        // a cut is a cut: what was on its way does not arrive
        stream.set_zero_linger()?;
    }
    let (mut client_read, mut client_write) = client.into_split();
    let (mut hub_read, mut hub_write) = hub.into_split();
    tokio::select! {
        result = pump(&mut client_read, &mut hub_write, shared, &shared.up) => result,
        result = pump(&mut hub_read, &mut client_write, shared, &shared.down) => result,
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    passed: &AtomicU64,
) -> std::io::Result<()> {
    let rate = shared.bytes_per_second;
    let step = rate.map_or(u64::MAX, |rate| rate / 50).clamp(512, 64 * 1024);
    let mut buffer = vec![0; step as usize];
    let mut free_at = Instant::now();
    let mut hung = shared.hung.subscribe();
    loop {
        let count = tokio::select! {
            biased;
            () = hangs(&mut hung) => std::future::pending().await,
            count = from.read(&mut buffer) => count?,
        };
        if count == 0 {
            return Ok(());
        }
        if let Some(rate) = rate {
            free_at =
                free_at.max(Instant::now() - PACE) + Duration::from_micros(count as u64 * 1_000_000 / rate);
            tokio::time::sleep_until(free_at).await;
        }
        to.write_all(&buffer[..count]).await?;
        passed.fetch_add(count as u64, Ordering::SeqCst);
    }
}

async fn hangs(hung: &mut watch::Receiver<bool>) {
    let _hangs = hung.wait_for(|hung| *hung).await;
}
