//! Some deliveries, for clients that ask now and then.

use std::time::Duration;

use axis_proto::hub::v1::{MailboxProgress, PullRequest, PullResponse, Reason};
use tokio::time::timeout;

use super::{Call, account_from, gone, lease_duration, progress, within};
use crate::{
    deliver::{Appetite, Lease, hand_over},
    error::{Error, Refusal, Result},
    limits,
    machine::query,
    wire::call::page,
};

/// How long a pull that does not wait is answered in at the latest: what a
/// commit on a slow disk takes.
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn pull(call: &Call, request: &PullRequest) -> Result<PullResponse> {
    let max = page(request.max_deliveries, 1, limits::PULL_MAX)?;
    if request.max_wait_ms > limits::PULL_WAIT_MAX_MS {
        return Err(Error::invalid("max_wait_ms", Reason::FieldInvalid, request.max_wait_ms));
    }
    let lease_duration_ms = lease_duration(request.lease_duration_ms, "lease_duration_ms")?;
    let row = call.read(|read| query::mailbox(read, call.system()));
    account_from(&row, request.accounted_to, "accounted_to")?;

    let appetite = Appetite {
        credit: max as u32,
        lease_duration_ms,
        bytes_max: Some(limits::PULL_BYTES_MAX as u64),
        once: true,
        impatient: request.max_wait_ms == 0,
    };
    let leases = take(call, appetite, Duration::from_millis(request.max_wait_ms)).await?;
    let mut deliveries = Vec::with_capacity(leases.len());
    for lease in leases {
        let made = call.blocking(move |context| hand_over(&*context.state, &context.evidence, lease)).await;
        match made {
            Ok(made) => deliveries.extend(made.map(|made| within(made, request.documents_bytes_max))),
            // one that cannot be read does not keep the others back
            Err(error) => drop(call.refusal(&error)),
        }
    }
    let (gone, progress) = account(call, request.accounted_to)?;
    Ok(PullResponse { deliveries, gone, progress: Some(progress) })
}

/// Waits for a round of leases, or until the time is over.
async fn take(call: &Call, appetite: Appetite, max_wait: Duration) -> Result<Vec<Lease>> {
    let wait = if appetite.impatient { ROUND_TIMEOUT } else { max_wait };
    let mut taking = call.context.deliver.take(call.system(), appetite);
    let waited = tokio::select! {
        waited = timeout(wait, taking.next()) => waited,
        () = call.context.stopping.cancelled() => {
            return Err(Refusal::new(Reason::Stopping).retry_after_ms(limits::STOPPING_RETRY_MS).into());
        }
    };
    match waited {
        Ok(leases) => Ok(leases),
        Err(_) => Ok(timeout(ROUND_TIMEOUT, taking.finish()).await.unwrap_or_default()),
    }
}

/// Which numbers ended, and where the mailbox stands; the floor does not pass
/// what is not listed.
fn account(call: &Call, accounted_to: u64) -> Result<(Vec<axis_proto::hub::v1::Gone>, MailboxProgress)> {
    let (row, found) = call.read(|read| {
        let row = query::mailbox(read, call.system());
        let from = account_from(&row, accounted_to, "accounted_to")?;
        let found = query::gone(read, call.system(), from, row.floor, limits::GONE_MAX);
        Ok::<_, Error>((row, found))
    })?;
    let mut progress = progress(&row);
    if found.len() == limits::GONE_MAX {
        progress.floor = found.last().map_or(row.floor, |(number, ..)| *number);
    }
    Ok((found.into_iter().map(gone).collect(), progress))
}
