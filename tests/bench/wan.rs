//! A long and narrow way to a hub: a TCP relay that delays, meters and loses,
//! as TCP lets its users see losses. Knows nothing of what passes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that TCP sends as one segment over Ethernet.
const SEGMENT_BYTES: usize = 1_448;
/// What the way holds beyond what is on it: more has to wait before it.
const BUFFER: Duration = Duration::from_millis(200);
/// Segments on their way at most, of which the buffer and the delay bound the
/// bytes.
const PENDING_MAX: usize = 4_096;

/// What a way is like, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// From one end to the other.
    pub delay: Duration,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Segments that get lost, of a million. A lost one comes a round trip
    /// later, nothing passes it, and the sender waits for as long.
    pub lost_of_million: u32,
}

/// A way to one hub. Gone when it is dropped.
#[derive(Debug)]
pub struct Wan {
    /// Where it begins.
    pub address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Wan {
    /// To this address.
    pub async fn to(hub: &str, way: Way) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, hub) = (listener.local_addr()?, hub.to_owned());
        let accepting = tokio::spawn(async move {
            let mut passing = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let hub = hub.clone();
                passing.spawn(async move {
                    let _cut = pass(client, &hub, way).await;
                });
                while passing.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

async fn pass(client: TcpStream, hub: &str, way: Way) -> std::io::Result<()> {
    let hub = TcpStream::connect(hub).await?;
    client.set_nodelay(true)?;
    hub.set_nodelay(true)?;
    let ((client_read, client_write), (hub_read, hub_write)) = (client.into_split(), hub.into_split());
    tokio::select! {
        ended = one_way(client_read, hub_write, way) => ended,
        ended = one_way(hub_read, client_write, way) => ended,
    }
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way) -> std::io::Result<()> {
    let (enter, mut leave) = mpsc::channel::<(Instant, Vec<u8>)>(PENDING_MAX);
    let entering = async move {
        let mut free_at = Instant::now();
        loop {
            let mut segment = vec![0; SEGMENT_BYTES];
            let count = from.read(&mut segment).await?;
            segment.truncate(count);
            let now = Instant::now();
            free_at =
                free_at.max(now) + Duration::from_micros(count as u64 * 1_000_000 / way.bytes_per_second);
            if count > 0 && fastrand::u32(..1_000_000) < way.lost_of_million {
                free_at += 2 * way.delay;
            }
            if count == 0 || enter.send((free_at + way.delay, segment)).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
            sleep_until(free_at - BUFFER.min(free_at.saturating_duration_since(now))).await;
        }
    };
    let leaving = async {
        while let Some((at, segment)) = leave.recv().await {
            sleep_until(at).await;
            to.write_all(&segment).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::try_join!(entering, leaving).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_late_and_slow_and_whole() {
        let hub = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Way { delay: Duration::from_millis(30), bytes_per_second: 1_000_000, lost_of_million: 0 };
        let wan = Wan::to(&hub.local_addr().unwrap().to_string(), way).await.unwrap();
        let mut client = TcpStream::connect(wan.address).await.unwrap();
        let (mut arrived, _) = hub.accept().await.unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let began = std::time::Instant::now();
        let (came, _) = tokio::join!(
            async {
                let mut came = vec![0; sent.len()];
                arrived.read_exact(&mut came[..1]).await.unwrap();
                let first = began.elapsed();
                arrived.read_exact(&mut came[1..]).await.unwrap();
                (came, first, began.elapsed())
            },
            async { client.write_all(&sent).await.unwrap() }
        );
        assert_eq!(came.0, sent);
        assert!(came.1 >= way.delay, "{:?}", came.1);
        assert!(came.2 >= way.delay + Duration::from_millis(199), "{:?}", came.2);
    }
}
