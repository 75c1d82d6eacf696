//! What the machine can do at this moment, without a hub: the limits that
//! figures are read against. The disk above all is not the same every minute.

use std::{
    fs::File,
    hint::black_box,
    io::Write as _,
    path::Path,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::key::SigningKey;
use ed25519_dalek::{Signature, VerifyingKey};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs::default_provider};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::measure::{Figures, Latencies};

/// What a small document has, and a block of most file systems.
const SMALL_BYTES: usize = 4_096;
/// Bytes between syncs when a document is written: as the hub does.
const SYNC_BYTES: usize = 8 << 20;
/// Most bytes that are written for it.
const WRITE_BYTES_MAX: u64 = 1 << 30;
/// Signatures that are verified between two looks at the clock.
const VERIFIED_AT_ONCE: usize = 50;

/// What it can do.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// 4 KiB appended to a file and made durable, one after the other.
    pub syncs: f64,
    /// How long each took.
    pub sync: Latencies,
    /// Bytes that are written one after the other, durably, in millions a second.
    pub write_mb: f64,
    /// Processor time of one `verify_strict` of 4 KiB on one processor: the
    /// median, in microseconds.
    pub verify_us: f64,
    /// The same while every processor does it, which they may feel: as under
    /// load.
    pub verify_busy_us: f64,
    /// One stream of TLS on loopback, in millions a second.
    pub tls_mb: f64,
}

impl Baseline {
    /// As a table has them.
    pub fn figures(&self) -> Figures {
        vec![
            ("fdatasync of 4 KiB appended, per second", self.syncs),
            ("fdatasync p50 ms", self.sync.ms(50.0)),
            ("fdatasync p99 ms", self.sync.ms(99.0)),
            ("durable write MB/s", self.write_mb),
            ("verify_strict of 4 KiB, CPU µs", self.verify_us),
            ("verify_strict on all processors at once, CPU µs", self.verify_busy_us),
            ("TLS one stream MB/s", self.tls_mb),
        ]
    }
}

/// Measures all of it: some seconds, less if figures are of less.
pub fn measure(dir: &Path, seconds: u64) -> anyhow::Result<Baseline> {
    let time = (Duration::from_secs(seconds) / 5).min(Duration::from_secs(1));
    let (syncs, sync) = appends(dir, time).context("appending")?;
    let write_mb = writes(dir, time).context("writing")?;
    let tls_mb = tokio::runtime::Runtime::new()?.block_on(tls(time)).context("TLS on loopback")?;
    let (verify_us, verify_busy_us) = (verify(1, time), verify_now(time));
    Ok(Baseline { syncs, sync, write_mb, verify_us, verify_busy_us, tls_mb })
}

/// What one signature costs under load at this moment: processors are not the
/// same every second either.
pub fn verify_now(time: Duration) -> f64 {
    verify(std::thread::available_parallelism().map_or(1, usize::from), time)
}

fn appends(dir: &Path, time: Duration) -> anyhow::Result<(f64, Latencies)> {
    let path = dir.join("appends");
    let (mut file, block) = (File::create(&path)?, [7; SMALL_BYTES]);
    let (mut latencies, mut count, began) = (Latencies::default(), 0, Instant::now());
    while began.elapsed() < time {
        let one = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.record(one.elapsed());
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok((rate, latencies))
}

fn writes(dir: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = dir.join("writes");
    let (mut file, block) = (File::create(&path)?, vec![7; SYNC_BYTES]);
    let (mut bytes, began) = (0, Instant::now());
    while began.elapsed() < time && bytes < WRITE_BYTES_MAX {
        file.write_all(&block)?;
        file.sync_data()?;
        bytes += SYNC_BYTES as u64;
    }
    let rate = bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// The median processor time of one `verify_strict` of the library, on so
/// many threads at once: others on the machine do not change it. The hub's way to
/// the same verdict is shorter.
fn verify(threads: usize, time: Duration) -> f64 {
    let start = Arc::new(Barrier::new(threads));
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let start = start.clone();
            std::thread::spawn(move || {
                let (key, message) = (SigningKey::generate(), [7; SMALL_BYTES]);
                let signature = Signature::from_bytes(&key.sign(&message));
                let point = VerifyingKey::from_bytes(key.public().as_bytes()).expect("a key's point");
                start.wait();
                let (began, mut times) = (Instant::now(), Vec::new());
                while began.elapsed() < time || times.is_empty() {
                    let some = thread_time();
                    for _ in 0..VERIFIED_AT_ONCE {
                        assert!(black_box(&point).verify_strict(black_box(&message), &signature).is_ok());
                    }
                    times.push((thread_time() - some).as_secs_f64() * 1e6 / VERIFIED_AT_ONCE as f64);
                }
                times
            })
        })
        .collect();
    let mut times: Vec<f64> =
        threads.into_iter().flat_map(|thread| thread.join().expect("it verifies what it signed")).collect();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// One stream from one end to the other, both in this process.
async fn tls(time: Duration) -> anyhow::Result<f64> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    let (provider, versions) = (Arc::new(default_provider()), [&rustls::version::TLS13]);
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let reading = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(tcp).await?;
        let (mut buffer, mut bytes, began) = (vec![0; 256 * 1024], 0, Instant::now());
        loop {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => bytes += count,
            }
        }
        anyhow::Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
    });
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, tcp).await?;
    let (block, began) = (vec![7; 256 * 1024], Instant::now());
    while began.elapsed() < time {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    reading.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_a_figure() {
        let dir = tempfile::tempdir().unwrap();
        let baseline = measure(dir.path(), 1).unwrap();
        assert!(baseline.figures().iter().all(|(_, figure)| *figure > 0.0), "{baseline:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
