//! Every bound of the hub, with its unit and its reason. Those that clients
//! meet are published by `HubService.GetInfo`; those that both sides must
//! agree on live in `axis_proto::limits` and are repeated there by name.

use std::time::Duration;

pub use axis_proto::limits::{EXPIRES_DEFAULT_MS, EXPIRES_MAX_MS, RECORD_BYTES_MAX};

/// A millisecond count, as records hold times.
pub type Millis = u64;

/// One minute in milliseconds.
pub const MINUTE_MS: Millis = 60_000;
/// One day in milliseconds.
pub const DAY_MS: Millis = 86_400_000;

// what a request may hold

/// Most violations named in one refusal: twice the most named recipients.
pub const VIOLATIONS_MAX: usize = 10_000;
/// Most violations in a gRPC status, whose trailers peers bound to 8–16 KiB.
pub const STATUS_VIOLATIONS_MAX: usize = 32;
/// Most recipients of an envelope that is accepted and seen by all in one
/// record; `record.proto` says it. Replay goes by what each record says.
pub const AT_ONCE_RECIPIENTS_MAX: usize = 64;
/// Recipients above which the state also lists an envelope's deliveries by
/// system, so that nobody has to look through all of them.
pub const WIDE_RECIPIENTS: u32 = 64;
/// Most bytes of one request message: a submission with its documents.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most bytes of one request that names things only.
pub const SMALL_REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of one response message: a pull of large inline deliveries.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of deliveries in one Pull response.
pub const PULL_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Most recipients of one envelope, groups expanded: the whole directory and
/// room to grow.
pub const RECIPIENTS_MAX: usize = 200_000;
/// Most bytes of an operator's remark.
pub const REMARK_BYTES_MAX: usize = 4_096;

/// Most bytes of the name of who did something, in a record.
pub const OPERATOR_BYTES_MAX: usize = 64;

// time

/// Oldest `created` that is accepted; shorter than ids are remembered.
pub const CREATED_AGE_MAX_MS: Millis = 30 * DAY_MS;
/// Furthest `created` in the future: what clocks may differ by.
pub const CREATED_AHEAD_MAX_MS: Millis = 5 * MINUTE_MS;
/// How long before its deadline a delivery is warned of; a tenth of its life
/// if that is shorter.
pub const EXPIRY_WARNING_MS: Millis = 3 * DAY_MS;
/// How long an uploaded document is kept without being named.
pub const UPLOAD_PINNED_MS: Millis = 7 * DAY_MS;
/// How long content is kept after the last settlement, unless `hub.toml` says
/// otherwise.
pub const CARGO_KEPT_MS: Millis = 90 * DAY_MS;
/// The shortest time that `hub.toml` may name for it.
pub const CARGO_KEPT_MIN_MS: Millis = DAY_MS;
/// How long an envelope is known to Track and re-submission after its last
/// settlement, unless `hub.toml` says otherwise.
pub const SUMMARY_KEPT_MS: Millis = 400 * DAY_MS;
/// The shortest time that `hub.toml` may name for it: ids are remembered for
/// 60 days after `created`, which may be some minutes ahead of us.
pub const SUMMARY_KEPT_MIN_MS: Millis = 61 * DAY_MS;
/// How long a feed can be read back, unless `hub.toml` says otherwise.
pub const FEED_KEPT_MS: Millis = 400 * DAY_MS;
/// The shortest time that `hub.toml` may name for it.
pub const FEED_KEPT_MIN_MS: Millis = 30 * DAY_MS;
/// The longest time that `hub.toml` may name for any of them.
pub const KEPT_MAX_MS: Millis = 36_500 * DAY_MS;
/// How long a purge waits for the second operator.
pub const PURGE_REQUEST_MS: Millis = DAY_MS;
/// How long an enrolment token lives.
pub const TOKEN_MS: Millis = DAY_MS;
/// A jump of the wall clock against the monotonic one that is not trusted.
pub const CLOCK_JUMP_MAX_MS: Millis = MINUTE_MS;
/// A difference between the clock and the last record at start that is not
/// trusted.
pub const CLOCK_START_DIFFERENCE_MAX_MS: Millis = DAY_MS;

// what a system may cause in a day, if `hub.toml` says nothing else

/// Records, each recipient of an envelope counted as one: a hundred times what
/// the busiest ministry sends, and a day's flood still fits the disk.
pub const RECORDS_PER_DAY: u64 = 10_000_000;
/// What a renewed certificate or key is counted as: it stays in the directory
/// for ever, and a thousand of them are a day's allowance.
pub const RENEWAL_COST_RECORDS: u64 = 10_000;
/// Bytes of envelopes and documents: 1 TiB, more than its link carries.
pub const BYTES_PER_DAY: u64 = 1024 * 1024 * 1024 * 1024;

// mailboxes

/// Lease when the client names none.
pub const LEASE_DEFAULT_MS: Millis = MINUTE_MS;
/// Shortest lease.
pub const LEASE_MIN_MS: Millis = 1_000;
/// Longest lease.
pub const LEASE_MAX_MS: Millis = 60 * MINUTE_MS;
/// Attempts before a delivery is parked.
pub const ATTEMPTS_MAX: u32 = 12;
/// First delay after a nack or a lapse; doubles with each attempt.
pub const BACKOFF_MIN_MS: Millis = 5_000;
/// Longest delay that the hub chooses.
pub const BACKOFF_MAX_MS: Millis = 60 * MINUTE_MS;
/// Longest delay that a client may choose.
pub const NACK_DELAY_MAX_MS: Millis = DAY_MS;
/// Most deliveries on lease to one system: what a client may leave unanswered.
pub const LEASED_PER_SYSTEM_MAX: u64 = 4_000;
/// Most credit of one receive stream.
pub const CREDIT_MAX: u32 = 1_000;
/// Most deliveries in one Pull.
pub const PULL_MAX: u32 = 100;
/// Longest wait of a Pull.
pub const PULL_WAIT_MAX_MS: Millis = 30_000;
/// Most Gone entries in one Pull.
pub const GONE_MAX: usize = 1_000;
/// Longest silence of a receive stream.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);
/// Streams that are silent speak in the same moments, so far apart: to wake is
/// dearer than to speak.
pub const PROGRESS_SLOT: Duration = Duration::from_millis(250);

// the commit

/// Most commands in one batch.
pub const BATCH_COMMANDS_MAX: usize = 512;
/// Most bytes of records and cargo in one batch, before the last command.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most microseconds of deciding in one batch, before the last command: those
/// who are decided already do not wait for those who are slow to decide.
pub const BATCH_US_MAX: u64 = 10_000;
/// From so many commands in a batch on, the writer lets more gather before the
/// next: each batch costs a signature, a sync and waking, whatever is in it.
/// Callers who are fewer than this never wait for others.
pub const GATHER_FROM: usize = 4;
/// For how many times as long as the batch took it does: on a quick machine a
/// batch costs little, and who waits feels it.
pub const GATHER_TIMES: u32 = 2;
/// For how long it does at most.
pub const GATHER_MAX: Duration = Duration::from_millis(1);
/// Most commands that wait for the writer; beyond it callers are told to wait.
pub const COMMIT_QUEUE_MAX: usize = 4_096;
/// Most records that one tick of the timers may propose.
pub const TICK_RECORDS_MAX: usize = 512;
/// Most numbers of a mailbox that one tick looks at for deliveries that must
/// move: 10 ms or so, a million in 500 ticks.
pub const SEARCH_MAX: usize = 2_048;
/// Most expired envelopes that one tick looks at.
pub const TICK_EXPIRES_MAX: usize = 8_192;
/// Most deliveries that one tick forgets: each is three or four keys.
pub const FORGET_MAX: u32 = 512;
/// Most deliveries that one step of a purge returns.
pub const PURGE_RETURNS_MAX: usize = 512;
/// Most digests in one record: they must fit its 16 KiB.
pub const DIGESTS_IN_RECORD_MAX: usize = 400;
/// Most entries of a feed that one record trims.
pub const FEED_TRIM_MAX: usize = 512;
/// Most recipients of one Consigned record.
pub const CONSIGN_MAX: usize = 512;
/// Most agencies that are looked at in one hold of the state while a broadcast
/// is looked up: 10 ms or so that the writer waits.
pub const EXPAND_PART_MAX: usize = 2_000;
/// Records that the journal has more than the state up to which one thread
/// replays them: those of a tenth of a second, as behind a kill.
pub const REPLAY_ALONE_RECORDS: u64 = 8_192;
/// Most batches that were read and wait to be applied in a longer replay:
/// enough small ones that neither thread waits for the other each time.
pub const REPLAY_AHEAD_BATCHES: usize = 64;
/// Most bytes of them, records counted twice: two of the largest batches.
pub const REPLAY_AHEAD_BYTES: usize = 2 * BATCH_BYTES_MAX;
/// Bytes of recent batches that are kept in memory for receipts and
/// deliveries.
pub const RECENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of older batches that are kept after they were read: a broadcast is
/// delivered from one of them for hours.
pub const READ_BATCHES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Leaves of recipient lists whose hashes are kept in memory, 250 bytes each:
/// a broadcast to the whole directory and room to grow.
pub const OPEN_LIST_LEAVES_MAX: usize = 200_000;

// the stores

/// A journal segment: small enough to archive, large enough to be few.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// How far a segment is filled with zeros ahead of the end, so that a sync
/// writes no metadata.
pub const SEGMENT_AHEAD_BYTES: u64 = 1024 * 1024;
/// Bytes of an upload between syncs: many enough to be quick, few enough to
/// send again, or to read again when it goes on, with as many that came while a
/// sync was under way.
pub const UPLOAD_SYNC_BYTES: u64 = 8 * 1024 * 1024;
/// Chunks of an upload that wait while those before are hashed and written.
pub const UPLOAD_CHUNKS_AHEAD: usize = 1;
/// Most chunks of an upload that are hashed and written at once.
pub const UPLOAD_CHUNKS_AT_ONCE: usize = 2;
/// Uploads of so many bytes may be begun beside larger ones of the same
/// system; without them, what it has begun takes half of the free disk at most,
/// so that one system's promises leave room for the others.
pub const UPLOAD_SMALL_BYTES: u64 = 64 * 1024 * 1024;
/// After what time an upload may be begun that found no room.
pub const UPLOAD_ROOM_RETRY_MS: Millis = 60_000;
/// After what time an upload may be begun that somebody else is writing.
pub const UPLOAD_BUSY_RETRY_MS: Millis = 5_000;
/// How long a stream waits for an older one of the same upload to give way: a
/// chunk's write and sync.
pub const UPLOAD_HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// sled's cache: what is hot is in our own layer already. sled counts what its
/// pages take on the disk; in memory it is three times as much.
pub const SLED_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// What was read from sled lately, with the keys.
pub const STATE_CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Keys that wait for sled before the writer itself waits: 16 MiB or so.
pub const STATE_LAG_KEYS_MAX: usize = 100_000;
/// Keys that wait for sled when it is written, if not before.
pub const STATE_FLUSH_KEYS: usize = STATE_LAG_KEYS_MAX / 4;
/// How often sled is written.
pub const STATE_FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Records between snapshots.
pub const SNAPSHOT_RECORDS: u64 = 1_000_000;
/// Free bytes that submissions and uploads leave, beside what a snapshot of
/// the state takes: a million deliveries and their answers.
pub const DISK_LOW_BYTES: u64 = 512 * 1024 * 1024;
/// What a document takes on the disk is counted in blocks of so many bytes, one
/// at least: those of ext4 and XFS, and the inode of a small one beside it.
pub const DISK_BLOCK_BYTES: u64 = 4_096;
/// Free files (inodes) that new documents leave, beside those that they take:
/// for segments, snapshots, the state's files and backups, a few hundred a day.
pub const DISK_LOW_FILES: u64 = 10_000;
/// Files that one upload makes at most: the document and its mark.
pub const UPLOAD_FILES: u64 = 2;
/// Free bytes that a snapshot leaves of them, for records.
pub const DISK_LOW_SNAPSHOT_BYTES: u64 = 256 * 1024 * 1024;
/// Free bytes below which sled is not written, which would be of no use after
/// a write that failed: 100 MiB or so. That is what a write of as many keys as
/// usual takes if no two of them share a block of 2 KiB, which is in the redo
/// file then and in sled. Twice as many, when sled is behind, may take more. The
/// journal has them.
pub const DISK_STATE_BYTES: u64 = STATE_FLUSH_KEYS as u64 * 2 * 2 * 1024;

// connections

/// Most connections of systems.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Most TLS handshakes at once.
pub const HANDSHAKES_MAX: usize = 256;
/// Most handshakes at once from one network, an IPv4 address or the /64 of an
/// IPv6 one; this machine's own are not counted.
pub const HANDSHAKES_PER_NETWORK_MAX: usize = 64;
/// Most connections of those who enrol, who are nobody yet: enough for all
/// systems of a province in one morning.
pub const ENROLMENT_CONNECTIONS_MAX: usize = 256;
/// Most of them from one network; this machine's own are not counted.
pub const ENROLMENT_CONNECTIONS_PER_NETWORK_MAX: usize = 16;
/// Longest life of such a connection: it is for one call.
pub const ENROLMENT_CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// Most connections with one certificate.
pub const CONNECTIONS_PER_CERTIFICATE_MAX: usize = 32;
/// Most connections of one system, by all of its certificates.
pub const CONNECTIONS_PER_SYSTEM_MAX: usize = 128;
/// Most calls of one system whose answer is not sent: each holds a request or
/// an answer in memory.
pub const CALLS_PER_SYSTEM_MAX: usize = 512;
/// Most of them whose answer is a stream: each holds many, and work that goes
/// on.
pub const STREAMS_PER_SYSTEM_MAX: usize = 128;
/// Most of those whose answer may have megabytes, as a pull's: together what
/// its share of requests may have, and one for each of its connections.
pub const LARGE_ANSWERS_PER_SYSTEM_MAX: usize = 32;
/// Most receive streams of one system: each holds some deliveries of a
/// megabyte that are not read yet.
pub const RECEIVES_PER_SYSTEM_MAX: usize = 16;
/// When a system with too many calls may try again.
pub const CALLS_RETRY_MS: Millis = 50;
/// Pause after a connection could not be accepted.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a frame that a peer may send: fewer heads of large chunks than with
/// the usual 16 KiB.
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Bytes that are read from a connection at once.
pub const READ_AHEAD_BYTES: usize = 32 * 1024;
/// What a peer may send on one stream before we have read it.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// The same for all streams of a connection together.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Silence after which a connection is asked whether it lives: of ten thousand
/// that wait, 170 a second. What was handed to one that is dead lapses by then.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long it has for the answer: on a link of 32 KiB/s a megabyte may be on
/// its way before the question.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest from the handshake to the first bytes of HTTP/2, behind which
/// silence is noticed by keepalive.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Most streams that a peer may reset before they were looked at, as a flood
/// of requests that are cancelled at once; beyond it the connection ends.
pub const RESETS_PENDING_MAX: usize = 20;
/// Most streams of a connection that we reset for a peer's mistakes in
/// HTTP/2; beyond it the connection ends.
pub const ERROR_RESETS_MAX: usize = 256;
/// What somebody who enrols may send before we have read it, on all streams
/// together: one request.
pub const ENROLMENT_WINDOW_BYTES: u32 = 64 * 1024;
/// Most calls at once on one connection of somebody who enrols.
pub const ENROLMENT_STREAMS_MAX: u32 = 4;
/// Most bytes of the headers of one request.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// How often open connections are looked at for certificates that ended.
pub const ACCESS_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How often the server's certificate is looked at.
pub const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(3_600);
/// Most bytes of a request for an identity.
pub const ENROL_BYTES_MAX: usize = 16 * 1024;
/// Most agencies named in GetInfo and Enrol; the directory has all.
pub const AGENCIES_SHOWN_MAX: usize = 1_000;
/// Wrong enrolment tokens from one address within the window, before it has
/// to wait.
pub const TOKEN_FAILURES_MAX: u32 = 10;
/// The window in which wrong tokens are counted.
pub const TOKEN_FAILURES_WINDOW_MS: Millis = MINUTE_MS;
/// Most addresses whose wrong tokens are counted one by one.
pub const TOKEN_FAILURES_ADDRESSES_MAX: usize = 10_000;
/// Longest handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most streams and calls at once on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Most unanswered submissions on one stream.
pub const SUBMIT_STREAM_PENDING_MAX: usize = 1_024;
/// Most bytes of unanswered submissions on one stream.
pub const SUBMIT_STREAM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of requests under way of all systems together: messages that
/// are coming, submissions that are not answered.
pub const REQUESTS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most of them of one system: a quarter, so that one that never ends its
/// messages or never reads its answers leaves the others most of the room,
/// and enough for 32 of the longest at once.
pub const REQUESTS_BYTES_PER_SYSTEM_MAX: usize = REQUESTS_BYTES_MAX / 4;
/// Bytes of requests under way of all systems together up to which a submission
/// is verified where it came in: one of a few kilobytes with nothing else.
pub const WORK_AT_ONCE_BYTES: usize = 8 * 1024;
/// Keys whose points are remembered: one of each system, and then some, 300
/// bytes each.
pub const POINTS_MAX: usize = 4_096;
/// How long one message may take to come, once its length is known and room
/// is held for it: the longest on a link of 16 KiB/s.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(128);
/// How long a submission stream may take no answer while some wait for it:
/// they hold their share of the bytes under way for as long.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// After what time a caller may try again that met a full gate.
pub const BUSY_RETRY_MS: Millis = 200;
/// After what time a caller may try again that met a stopping hub.
pub const STOPPING_RETRY_MS: Millis = 2_000;
/// Most uploads at once of one system; as many of its hashers are in memory, 300
/// bytes each.
pub const UPLOADS_PER_SYSTEM_MAX: usize = 16;
/// Bytes of the first chunk of a download. A chunk counts only once it is whole,
/// so that they grow with what has been sent: who is cut off loses a fourth.
pub const DOWNLOAD_CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Most bytes of a chunk of a download.
pub const DOWNLOAD_CHUNK_BYTES: usize = 256 * 1024;
/// Sums of blocks of documents that are kept in memory, 4 bytes for each 256
/// KiB of them: 4 MiB, or 250 GB of documents.
pub const DOCUMENT_SUMS_MAX: usize = 1_000_000;
/// How long a document is needed by nobody before it leaves the vault.
pub const DOCUMENT_GRACE_MS: Millis = 60 * MINUTE_MS;
/// Pause between the steps of retention.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// Most segments that one step of retention reads: 4 MB a second.
pub const RETENTION_SEGMENTS: usize = 4;
/// Most documents of one directory that are remembered as needed by nobody;
/// the rest come with a later round.
pub const RETENTION_CANDIDATES_MAX: usize = 10_000;
/// Bytes that may leave a segment from which on it is written anew, if they
/// are not a quarter of it.
pub const ERASE_WORTH_BYTES: u64 = 8 * 1024 * 1024;
/// How long a purge waits for a backup to end.
pub const PURGE_GATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long after its record a purge is carried out once more at a start: a
/// crash may have come before its files were written anew.
pub const PURGE_AGAIN_MS: Millis = 30 * DAY_MS;
/// How often a purge looks whether an envelope became visible.
pub const PURGE_PAUSE: Duration = Duration::from_millis(100);
/// Longest silence inside an upload.
pub const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a backup may hold erasing up: the largest vaults are read
/// in it at 100 MB/s, eight terabytes.
pub const BACKUP_TIME_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Longest wait of a backup for the step of erasing that is under way, which
/// writes one segment.
pub const ERASE_STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of the name of a backup's directory.
pub const BACKUP_DIRECTORY_BYTES_MAX: usize = 4_096;
/// Most logs that one journal may hold, one for each time that it was
/// restored.
pub const LOGS_MAX: usize = 64;
/// Most connections of operators: a page, a scrape, a probe each.
pub const OPERATORS_CONNECTIONS_MAX: usize = 64;
/// How long a connection of theirs may go without an answer.
pub const OPERATORS_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a stopping hub waits for what is under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for its stores behind that: a disk that is busy writes
/// what waits for sled, and is read once for the seal, ten gigabytes with ten
/// million waiting. With [`DRAIN_TIMEOUT`] less than what the service files
/// under `deploy/` leave it.
pub const STORES_STOP_TIMEOUT: Duration = Duration::from_secs(60);
