//! Accepts connections, shakes hands beside each other, and remembers who is
//! connected so that a right that is lost is lost on open connections too.
//! Bounded in every direction: a silent or greedy client costs its own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axis_proto::id::{Digest, SystemId};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::{Sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::read_ahead::ReadAhead;
use crate::{
    config::Patience,
    limits,
    machine::query,
    observe::{Metrics, metrics::OpenGuard},
    state::{State, read_once},
};

/// What HTTP/2 begins with: its preface and an empty frame of settings.
const GREETING_BYTES: usize = 24 + 9;

/// The other end of a connection; in the extensions of each of its requests,
/// behind an `Arc`.
#[derive(Debug)]
pub struct Peer {
    /// SHA-256 of its certificate. None on the enrolment listener.
    pub fingerprint: Option<Digest>,
    /// Where it calls from.
    pub remote_addr: SocketAddr,
    /// Cancelled when the connection is to be cut.
    pub cut: CancellationToken,
}

/// Connections of systems by certificate. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    by_fingerprint: HashMap<Digest, HashMap<u64, Arc<Peer>>>,
    /// How many there are of each system, by whatever certificates.
    by_system: HashMap<SystemId, usize>,
    next: u64,
}

/// Removes its connection from the registry when dropped.
#[derive(Debug)]
struct Registered {
    connections: Connections,
    fingerprint: Digest,
    system: Option<SystemId>,
    number: u64,
}

impl Connections {
    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.lock().by_fingerprint.values().map(HashMap::len).sum()
    }

    /// The certificates that are connected.
    pub fn fingerprints(&self) -> Vec<Digest> {
        self.lock().by_fingerprint.keys().copied().collect()
    }

    /// Where a certificate is connected from.
    pub fn addresses_of(&self, fingerprint: &Digest) -> Vec<SocketAddr> {
        let registry = self.lock();
        let peers = registry.by_fingerprint.get(fingerprint).into_iter().flat_map(HashMap::values);
        peers.map(|peer| peer.remote_addr).collect()
    }

    /// Cuts every connection with this certificate; says how many.
    pub fn cut(&self, fingerprint: &Digest) -> usize {
        let peers: Vec<Arc<Peer>> = {
            let registry = self.lock();
            registry.by_fingerprint.get(fingerprint).into_iter().flat_map(HashMap::values).cloned().collect()
        };
        peers.iter().for_each(|peer| peer.cut.cancel());
        peers.len()
    }

    /// Adds a connection unless its certificate, or the system that it is
    /// registered for, has too many.
    fn add(&self, fingerprint: Digest, system: Option<SystemId>, peer: &Arc<Peer>) -> Option<Registered> {
        let mut registry = self.lock();
        let of_system = system.as_ref().and_then(|system| registry.by_system.get(system)).copied();
        let of_certificate = registry.by_fingerprint.get(&fingerprint).map_or(0, HashMap::len);
        if of_certificate >= limits::CONNECTIONS_PER_CERTIFICATE_MAX
            || of_system.unwrap_or(0) >= limits::CONNECTIONS_PER_SYSTEM_MAX
        {
            return None;
        }
        let number = registry.next;
        registry.next += 1;
        registry.by_fingerprint.entry(fingerprint).or_default().insert(number, peer.clone());
        if let Some(system) = &system {
            *registry.by_system.entry(system.clone()).or_default() += 1;
        }
        Some(Registered { connections: self.clone(), fingerprint, system, number })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut registry = self.connections.lock();
        if let Some(peers) = registry.by_fingerprint.get_mut(&self.fingerprint) {
            peers.remove(&self.number);
            if peers.is_empty() {
                registry.by_fingerprint.remove(&self.fingerprint);
            }
        }
        if let Some(system) = &self.system
            && let Some(count) = registry.by_system.get_mut(system)
        {
            *count -= 1;
            if *count == 0 {
                registry.by_system.remove(system);
            }
        }
    }
}

/// What a listener's connections are held to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many there may be.
    connections: usize,
    /// How many of them from one network.
    per_network: usize,
    /// How long one may live, if not for as long as it likes.
    life: Option<Duration>,
}

impl Bounds {
    /// Of systems, who are known by their certificates.
    pub const SYSTEMS: Self =
        Self { connections: limits::CONNECTIONS_MAX, per_network: limits::CONNECTIONS_MAX, life: None };

    /// Of anyone.
    pub fn enrolment(patience: &Patience) -> Self {
        Self {
            connections: limits::ENROLMENT_CONNECTIONS_MAX,
            per_network: limits::ENROLMENT_CONNECTIONS_PER_NETWORK_MAX,
            life: Some(patience.enrolment_life),
        }
    }
}

/// What accepting needs.
#[derive(Clone)]
pub struct Accept {
    /// How to shake hands.
    pub tls: Arc<ServerConfig>,
    /// What connections are held to.
    pub bounds: Bounds,
    /// How long handshake and greeting may take.
    pub patience: Patience,
    /// Where connections with a certificate are remembered.
    pub connections: Connections,
    /// Which system a certificate is registered for.
    pub state: Arc<dyn State>,
    /// Where connections and bytes are counted.
    pub metrics: Metrics,
    /// When to stop.
    pub stopping: CancellationToken,
}

impl Accept {
    /// Accepts until stopping; gives what has shaken hands, and the task that
    /// has let go of the port when it ends.
    pub fn run(self, listener: TcpListener) -> (ReceiverStream<io::Result<Connection>>, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(limits::HANDSHAKES_MAX);
        let accepting = tokio::spawn(async move {
            let stopping = self.stopping.clone();
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.accept_all(listener, sender) => {}
            }
        });
        (ReceiverStream::new(receiver), accepting)
    }

    async fn accept_all(self, listener: TcpListener, sender: mpsc::Sender<io::Result<Connection>>) {
        let open = Arc::new(Semaphore::new(self.bounds.connections));
        let handshakes = Arc::new(Semaphore::new(limits::HANDSHAKES_MAX));
        let (waiting, connected) = (Networks::default(), Networks::default());
        loop {
            let (tcp, remote_addr) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // out of file descriptors, most likely: let some close
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = open.clone().try_acquire_owned() else {
                tracing::warn!(%remote_addr, "connection dropped: too many");
                continue;
            };
            let address = remote_addr.ip();
            let Some(waits) = waiting.enter(address, limits::HANDSHAKES_PER_NETWORK_MAX) else {
                tracing::debug!(%remote_addr, "connection dropped: too many handshakes from there");
                continue;
            };
            let Some(counted) = connected.enter(address, self.bounds.per_network) else {
                tracing::debug!(%remote_addr, "connection dropped: too many from there");
                continue;
            };
            let place = (place, counted);
            let (accept, handshakes, sender) = (self.clone(), handshakes.clone(), sender.clone());
            tokio::spawn(async move {
                let shaken = timeout(accept.patience.handshake, async {
                    let _turn = handshakes.acquire_owned().await.map_err(io::Error::other)?;
                    tcp.set_nodelay(true)?;
                    TlsAcceptor::from(accept.tls.clone()).accept(ReadAhead::new(tcp)).await
                })
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                drop(waits);
                match shaken.and_then(|stream| accept.connection(stream, remote_addr, place)) {
                    Ok(connection) => drop(sender.send(Ok(connection)).await),
                    Err(error) => tracing::debug!(%remote_addr, %error, "no connection"),
                }
            });
        }
    }

    fn connection(
        &self,
        stream: TlsStream<ReadAhead<TcpStream>>,
        remote_addr: SocketAddr,
        place: (OwnedSemaphorePermit, Counted),
    ) -> io::Result<Connection> {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let fingerprint = certificate.map(|certificate| Digest::of(certificate));
        let peer = Arc::new(Peer { fingerprint, remote_addr, cut: CancellationToken::new() });
        let registered = match fingerprint {
            None => None,
            Some(fingerprint) => {
                let system = read_once(&*self.state, |read| query::certificate(read, &fingerprint));
                let system = system.and_then(|certificate| certificate.system.parse().ok());
                let registered = self.connections.add(fingerprint, system, &peer);
                Some(registered.ok_or_else(|| io::Error::other("too many connections of this system"))?)
            }
        };
        let (cut, life) = (peer.cut.clone(), self.bounds.life);
        Ok(Connection {
            stream,
            greeting: Some((Box::pin(tokio::time::sleep(self.patience.greeting)), GREETING_BYTES)),
            cut: Some(Box::pin(async move {
                match life {
                    None => cut.cancelled().await,
                    Some(life) => drop(timeout(life, cut.cancelled()).await),
                }
            })),
            peer,
            metrics: self.metrics.clone(),
            _held: (registered, place, self.metrics.connection()),
        })
    }
}

/// Connections by network, so that one network cannot take every place. This
/// machine's own may.
#[derive(Debug, Clone, Default)]
struct Networks(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One that is counted.
#[derive(Debug)]
struct Counted(Networks, IpAddr);

impl Networks {
    fn enter(&self, address: IpAddr, max: usize) -> Option<Counted> {
        let own = address.to_canonical().is_loopback();
        let network = network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= max && !own {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), network))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// What one party holds of the address space: an IPv4 address, or the /64 of
/// an IPv6 one.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

/// A connection that has shaken hands. Fails at once when it is cut.
pub struct Connection {
    stream: TlsStream<ReadAhead<TcpStream>>,
    peer: Arc<Peer>,
    /// Until when the peer must have spoken, and how much is missing.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    metrics: Metrics,
    _held: (Option<Registered>, (OwnedSemaphorePermit, Counted), OpenGuard),
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut {
            if cut.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            self.cut = None;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        self.metrics.received(count);
        if let Some((until, missing)) = &mut self.greeting {
            *missing = missing.saturating_sub(count);
            if *missing == 0 {
                self.greeting = None;
            } else if until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.metrics.sent(written);
        }
        polled
    }

    // without it each frame's nine bytes of head are a record of TLS, and a
    // call of the system, of their own
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        if let Poll::Ready(Ok(written)) = polled {
            self.metrics.sent(written);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A gRPC server with our bounds; layers and services come on top.
pub fn server(patience: &Patience) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(patience.keepalive_interval))
        .http2_keepalive_timeout(Some(patience.keepalive))
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::RESETS_PENDING_MAX))
        // if unset, tonic takes h2's own bound away
        .http2_max_local_error_reset_streams(Some(limits::ERROR_RESETS_MAX))
}

/// The same for those who enrol, who are nobody yet and send one request.
pub fn enrolment_server(patience: &Patience) -> tonic::transport::Server {
    server(patience)
        .max_concurrent_streams(limits::ENROLMENT_STREAMS_MAX)
        .initial_stream_window_size(limits::ENROLMENT_WINDOW_BYTES)
        .initial_connection_window_size(limits::ENROLMENT_WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(connections: &Connections, fingerprint: Digest) -> Option<(Arc<Peer>, Registered)> {
        let remote_addr = "192.0.2.1:9".parse().unwrap();
        let peer =
            Arc::new(Peer { fingerprint: Some(fingerprint), remote_addr, cut: CancellationToken::new() });
        connections.add(fingerprint, None, &peer).map(|registered| (peer, registered))
    }

    #[test]
    fn a_certificate_is_cut_on_all_of_its_connections_and_no_other() {
        let connections = Connections::default();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let first = peer(&connections, one).unwrap();
        let second = peer(&connections, one).unwrap();
        let other = peer(&connections, two).unwrap();
        assert_eq!((connections.count(), connections.fingerprints().len()), (3, 2));
        assert_eq!(connections.addresses_of(&one).len(), 2);
        assert_eq!(connections.cut(&one), 2);
        assert!(first.0.cut.is_cancelled() && second.0.cut.is_cancelled());
        assert!(!other.0.cut.is_cancelled());
        drop((first, second));
        assert_eq!(connections.cut(&one), 0);
        assert_eq!(connections.fingerprints(), [two]);
    }

    #[test]
    fn one_certificate_has_only_so_many_connections() {
        let connections = Connections::default();
        let fingerprint = Digest::of(b"one");
        let held: Vec<_> = (0..limits::CONNECTIONS_PER_CERTIFICATE_MAX)
            .map(|_| peer(&connections, fingerprint).unwrap())
            .collect();
        assert!(peer(&connections, fingerprint).is_none());
        drop(held);
        assert!(peer(&connections, fingerprint).is_some());
    }

    #[test]
    fn one_system_has_only_so_many_connections_by_whatever_certificates() {
        let connections = Connections::default();
        let connect = |system: &str, number: usize| {
            let fingerprint = Digest::of(&number.to_le_bytes());
            let remote_addr = "192.0.2.1:9".parse().unwrap();
            let peer =
                Arc::new(Peer { fingerprint: Some(fingerprint), remote_addr, cut: CancellationToken::new() });
            connections.add(fingerprint, Some(system.parse().unwrap()), &peer)
        };
        let mut held: Vec<_> =
            (0..limits::CONNECTIONS_PER_SYSTEM_MAX).map(|number| connect("vpcp", number).unwrap()).collect();
        assert!(connect("vpcp", 0).is_none() && connect("vpcp", 10_000).is_none());
        assert!(connect("byt", 20_000).is_some());
        held.pop();
        assert!(connect("vpcp", 10_000).is_some());
        drop(held);
        assert!(connections.lock().by_system.is_empty() && connections.count() == 0);
    }

    #[test]
    fn one_network_has_only_so_many_places() {
        let networks = Networks::default();
        let enter = |text: &str| networks.enter(text.parse().unwrap(), 3);
        let held: Vec<_> = (0..3).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        let wide: Vec<_> = (1..=3).map(|host| enter(&format!("2001:db8::{host}")).unwrap()).collect();
        assert!(enter("2001:db8::9").is_none());
        assert!(enter("2001:db8:0:1::9").is_some());
        let own: Vec<_> = (0..9).map(|_| enter("127.0.0.1").unwrap()).collect();
        drop((held, wide, own));
        assert!(enter("192.0.2.1").is_some());
        assert!(networks.0.lock().unwrap().is_empty());
    }
}
