//! The client: one connection, one home, few methods. Cheap to clone; any
//! number of them live in one process, each with a home of its own.

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axis_proto::{
    hub::v1::{
        GetInfoResponse, directory_service_client::DirectoryServiceClient,
        evidence_service_client::EvidenceServiceClient, feed_service_client::FeedServiceClient,
        hub_service_client::HubServiceClient, identity_service_client::IdentityServiceClient,
        mailbox_service_client::MailboxServiceClient, submission_service_client::SubmissionServiceClient,
        track_service_client::TrackServiceClient,
    },
    id::{AgencyCode, HubId, KeyId, SystemId},
    reason::Language,
    receipt::{OpenedLeaf, VerifiedReceipt},
    record::v1::Receipt,
};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    error::{Error, Result, Verification},
    home::{Home, Identity},
    retry::{Patience, patiently},
    tls,
    trust::Trust,
};

/// How a client behaves. The defaults suit an agency; tests shorten them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to one call; longer for many bytes.
    pub call_timeout: Duration,
    /// How long to keep trying without any progress.
    pub deadline: Duration,
    /// The first pause before trying again; it doubles, with jitter.
    pub first_pause: Duration,
    /// The longest pause before trying again.
    pub longest_pause: Duration,
    /// How often to ask a silent hub whether it lives.
    pub keep_alive: Duration,
    /// How long to keep what a restored hub may have lost: the files of what
    /// was sent, and what was answered. Longer than the oldest backup that may
    /// be restored; the hub takes nothing that is older than 30 days. Zero
    /// keeps nothing.
    pub keep: Duration,
    /// Whether to offer again by itself what a restored hub lacks. If not,
    /// [`Client::reconcile`] does.
    pub reconcile: bool,
    /// The language of the hub's messages.
    pub language: Language,
    /// Is told whenever something is about to be tried again.
    pub on_retry: Option<OnRetry>,
}

/// Is told why, and after which pause, something is tried again.
#[derive(Clone)]
pub struct OnRetry(Arc<Tell>);

type Tell = dyn Fn(&Error, Duration) + Send + Sync;

impl OnRetry {
    /// Calls this; it must be quick.
    pub fn new(tell: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, error: &Error, pause: Duration) {
        (self.0)(error, pause);
    }
}

impl std::fmt::Debug for OnRetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnRetry")
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(120),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
            keep_alive: Duration::from_secs(60),
            keep: Duration::from_secs(35 * 86_400),
            reconcile: true,
            language: Language::En,
            on_retry: None,
        }
    }
}

/// The slowest link that is planned for: one of 32 KiB/s that four calls share.
const LINK_BYTES_PER_SECOND_MIN: u64 = 8 * 1024;

impl ClientOptions {
    /// How long a call may take that carries so many bytes.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        self.call_timeout + Duration::from_millis(bytes.saturating_mul(1_000) / LINK_BYTES_PER_SECOND_MIN)
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            first_pause: self.first_pause,
            longest_pause: self.longest_pause,
            deadline: self.deadline,
            on_retry: self.on_retry.clone(),
        }
    }
}

/// A system's way to its hub.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    /// Itself, for the tasks that it starts.
    pub me: Weak<Inner>,
    pub home: Home,
    pub options: ClientOptions,
    pub identity: RwLock<Arc<Identity>>,
    /// Which log of the hub is trusted.
    pub trust: Trust,
    channel: RwLock<Channel>,
    /// Where to run what outlives its caller: answers of dropped deliveries.
    pub runtime: tokio::runtime::Handle,
    /// Answers of dropped deliveries that are under way.
    pub answers: TaskTracker,
    /// How many deliveries were answered again as they had been answered.
    pub answered_again: AtomicU64,
    /// Whether a task of this process offers again what a restored hub lacks.
    pub reconciling: AtomicBool,
}

impl Client {
    /// The client of a home that was enrolled. Reads the home; the hub is
    /// called when it is first needed, so that sending into the outbox works
    /// while the hub is away.
    pub async fn connect(home: impl AsRef<Path>) -> Result<Self> {
        Self::connect_with(home, ClientOptions::default()).await
    }

    /// As [`connect`](Self::connect), with other options.
    pub async fn connect_with(home: impl AsRef<Path>, options: ClientOptions) -> Result<Self> {
        let home = Home::at(home.as_ref());
        let identity = Identity::load(&home)?;
        let channel = tls::channel(&identity.profile.hub_address, tls::of_identity(&identity)?, &options)?;
        let trust = Trust::open(&home, &identity.profile.log_verifier_key)?;
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            trust,
            home,
            options,
            identity: RwLock::new(Arc::new(identity)),
            channel: RwLock::new(channel),
            runtime: tokio::runtime::Handle::current(),
            answers: TaskTracker::new(),
            answered_again: AtomicU64::new(0),
            reconciling: AtomicBool::new(false),
        });
        let client = Self { inner };
        client.inner.tidy();
        client.inner.reconcile_if_due();
        Ok(client)
    }

    /// Waits until deliveries that were dropped have been given back, at most
    /// so long. Worth calling before a program ends; without it their leases
    /// lapse.
    pub async fn drain(&self, at_most: Duration) {
        self.inner.answers.close();
        let _ = tokio::time::timeout(at_most, self.inner.answers.wait()).await;
        self.inner.answers.reopen();
    }

    /// How many deliveries of a restored hub were answered again by this
    /// client as they had been answered before, without being shown.
    pub fn answered_again(&self) -> u64 {
        self.inner.answered_again.load(Ordering::Relaxed)
    }

    /// This system.
    pub fn system_id(&self) -> SystemId {
        self.inner.identity().profile.system_id.clone()
    }

    /// The hub's name.
    pub fn hub_id(&self) -> HubId {
        self.inner.identity().profile.hub_id.clone()
    }

    /// The key that signs here now.
    pub fn key_id(&self) -> KeyId {
        self.inner.identity().signing_key.public().key_id()
    }

    /// The agencies that this system served when it was enrolled or renewed;
    /// [`info`](Self::info) asks the hub.
    pub fn agencies(&self) -> Vec<AgencyCode> {
        self.inner.identity().profile.agencies.clone()
    }

    /// When this side's certificate ends, in milliseconds since 1970: renew
    /// before.
    pub fn certificate_expires_unix_ms(&self) -> Option<u64> {
        self.inner.identity().certificates.first().and_then(|leaf| tls::expires_unix_ms(leaf))
    }

    /// What the hub says about itself and about us; checks that it is the hub
    /// that this home enrolled with.
    pub async fn info(&self) -> Result<GetInfoResponse> {
        let inner = &self.inner;
        let info = inner.retried(|| inner.ask_info()).await?;
        inner.met(&info)?;
        inner.mind_log().await?;
        Ok(info)
    }

    /// The receipt of a record that concerns this system's agencies, verified.
    /// For an Accepted or Consigned record, `agency` opens its own leaf.
    pub async fn receipt(&self, sequence: u64, agency: Option<&AgencyCode>) -> Result<Receipt> {
        let (_, found, verified) = self.inner.receipt(sequence, agency, false).await?;
        self.inner.mind_log().await?;
        if let Some(agency) = agency.filter(|agency| !opens(&verified, agency.as_str())) {
            let detail = format!("it does not open the leaf of {agency}");
            return Err(Verification::new("receipt", detail).into());
        }
        Ok(found)
    }
}

/// Whether a receipt shows an agency its own leaf.
fn opens(verified: &VerifiedReceipt, agency: &str) -> bool {
    match &verified.opened {
        Some(OpenedLeaf::Recipient(leaf)) => leaf.agency == agency,
        Some(OpenedLeaf::Consignment(leaf)) => leaf.agency == agency,
        None => false,
    }
}

/// Most bytes of an answer: what the hub sends at most, with room.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Inner {
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn address(&self) -> String {
        self.identity().profile.hub_address.clone()
    }

    fn channel(&self) -> Channel {
        self.channel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on as another identity, on a new connection; what is under way
    /// stays on the old one.
    pub fn replace(&self, identity: Identity) -> Result<()> {
        let channel =
            tls::channel(&identity.profile.hub_address, tls::of_identity(&identity)?, &self.options)?;
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        *self.channel.write().unwrap_or_else(PoisonError::into_inner) = channel;
        Ok(())
    }

    /// Goes on over another connection.
    #[cfg(test)]
    pub fn speak_to(&self, channel: Channel) {
        *self.channel.write().unwrap_or_else(PoisonError::into_inner) = channel;
    }

    pub fn hub(&self) -> HubServiceClient<Channel> {
        HubServiceClient::new(self.channel())
    }

    pub fn identity_service(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.channel())
    }

    pub fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn evidence(&self) -> EvidenceServiceClient<Channel> {
        EvidenceServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn feed(&self) -> FeedServiceClient<Channel> {
        FeedServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn track(&self) -> TrackServiceClient<Channel> {
        TrackServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn submission(&self) -> SubmissionServiceClient<Channel> {
        SubmissionServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn mailbox(&self) -> MailboxServiceClient<Channel> {
        MailboxServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A request that says which language we read.
    pub fn request<T>(&self, message: T) -> Request<T> {
        request(message, self.options.language)
    }

    /// One call, bounded in time.
    pub async fn timed<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
        self.timed_for(0, call).await
    }

    /// One call that carries so many bytes, bounded in time.
    pub async fn timed_for<T>(
        &self,
        bytes: u64,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.options.time_for(bytes), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::of_status(status, &self.address())),
            Err(_) => Err(Error::timed_out(&self.address())),
        }
    }

    /// A call that is safe to repeat, repeated as the remedy allows.
    pub async fn retried<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        patiently(self.options.patience(), attempt).await
    }
}

pub(crate) fn request<T>(message: T, language: Language) -> Request<T> {
    let mut request = Request::new(message);
    let language = tonic::metadata::MetadataValue::from_static(language.tag());
    request.metadata_mut().insert("accept-language", language);
    request
}

/// Milliseconds since 1970, as this side's clock has it.
pub(crate) fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use axis_proto::{
        envelope::v1::RecipientKind,
        leaves,
        record::v1::{Accepted, LeafList, RecipientLeaf, record::Event},
    };
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::testing::Enrolled;

    #[tokio::test]
    async fn a_receipt_opens_the_leaf_that_was_asked_for() {
        let enrolled = Enrolled::new().await;
        let leaf = |(index, agency): (u32, &str)| {
            let kind = RecipientKind::To.into();
            RecipientLeaf { recipient_index: index, agency: agency.into(), kind }.encode_to_vec().into()
        };
        let list = LeafList {
            secret: Bytes::from_static(&[5; 32]),
            leaves: [(0, "G22"), (1, "H53")].map(leaf).to_vec(),
        };
        let accepted = Accepted {
            recipient_count: 2,
            recipient_root: Bytes::copy_from_slice(&leaves::root(&list)),
            ..Default::default()
        };
        let mut found = enrolled.receipt(3, Event::Accepted(accepted));
        let opens =
            |found: &Receipt, agency: &str| opens(&enrolled.inner().trust.verify(found).unwrap(), agency);
        assert!(!opens(&found, "H53"), "it opens nothing");
        found.opening = leaves::open(&list, 1);
        assert!(opens(&found, "H53"));
        assert!(!opens(&found, "G22"), "it opens another's");
    }
}
