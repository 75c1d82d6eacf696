//! What a recipient answers: ack and reject, sealed; nack and extend, by
//! lease.

use axis_proto::{
    hub::v1::{
        AcknowledgeRequest, AcknowledgeResponse, ExtendRequest, ExtendResponse, NackRequest, NackResponse,
        RejectRequest, RejectResponse,
    },
    record::v1::{Receipt, Record, record::Event},
    seal::PayloadType,
};
use prost::Message as _;

use super::{Call, lease_duration};
use crate::{
    admit::{admit_acknowledgement, admit_rejection},
    commit::NO_ANSWER,
    error::{Error, Result},
    machine::{Command, Outcome},
    verify::{Ground, field_of, verify},
    wire::call::{parsed, required, shown},
};

pub(super) async fn acknowledge(call: &Call, request: AcknowledgeRequest) -> Result<AcknowledgeResponse> {
    let expected = PayloadType::Acknowledgement;
    let sealed = required(request.sealed_acknowledgement, field_of(expected))?;
    let work = move |call: &Call, ground: Ground<'_>, answer| {
        let verified = verify(ground, call.caller(), &sealed, expected)?;
        let (acknowledgement, signed) = admit_acknowledgement(ground, call.system(), verified)?;
        let command = Command::Acknowledge { system: call.system().clone(), acknowledgement, signed };
        call.context.committer.queue(command, answer);
        Ok(())
    };
    let ((), outcome) = call.committing(work).await?;
    let (outcome, receipt, event) = recorded(call, outcome).await?;
    let late = matches!(event, Event::LateAccepted(_));
    Ok(AcknowledgeResponse { receipt: Some(receipt), duplicate: outcome.duplicate, late })
}

pub(super) async fn reject(call: &Call, request: RejectRequest) -> Result<RejectResponse> {
    let expected = PayloadType::Rejection;
    let sealed = required(request.sealed_rejection, field_of(expected))?;
    let work = move |call: &Call, ground: Ground<'_>, answer| {
        let verified = verify(ground, call.caller(), &sealed, expected)?;
        let (rejection, signed) = admit_rejection(ground, call.system(), verified)?;
        let command = Command::Reject { system: call.system().clone(), rejection, signed };
        call.context.committer.queue(command, answer);
        Ok(())
    };
    let ((), outcome) = call.committing(work).await?;
    let (outcome, receipt, _) = recorded(call, outcome).await?;
    Ok(RejectResponse { receipt: Some(receipt), duplicate: outcome.duplicate })
}

pub(super) async fn nack(call: &Call, request: &NackRequest) -> Result<NackResponse> {
    let delivery = parsed(&request.delivery_id, "delivery_id")?;
    let (attempt, delay_ms) = (request.attempt, request.delay_ms);
    call.spend_record()?;
    let command = Command::Nack { system: call.system().clone(), delivery, attempt, delay_ms };
    let (_, receipt, event) = commit(call, command).await?;
    let due_unix_ms = match event {
        Event::Released(released) => released.due_unix_ms,
        _ => 0,
    };
    Ok(NackResponse { receipt: Some(receipt), due_unix_ms })
}

pub(super) async fn extend(call: &Call, request: &ExtendRequest) -> Result<ExtendResponse> {
    let delivery = parsed(&request.delivery_id, "delivery_id")?;
    let duration_ms = lease_duration(request.lease_duration_ms, "lease_duration_ms")?;
    let attempt = request.attempt;
    call.spend_record()?;
    let command = Command::Extend { system: call.system().clone(), delivery, attempt, duration_ms };
    let (_, receipt, event) = commit(call, command).await?;
    let Event::LeaseExtended(extended) = event else {
        return Err(Error::fault("extending a lease recorded something else"));
    };
    let lease_until_unix_ms = extended.lease_until_unix_ms;
    Ok(ExtendResponse { lease_until_unix_ms, receipt: Some(receipt) })
}

/// Commits, and reads back what was recorded.
async fn commit(call: &Call, command: Command) -> Result<(Outcome, Receipt, Event)> {
    recorded(call, Some(call.context.committer.commit(command).await)).await
}

/// Reads back what the writer recorded.
async fn recorded(call: &Call, outcome: Option<Result<Outcome>>) -> Result<(Outcome, Receipt, Event)> {
    let outcome = outcome.unwrap_or_else(|| Err(Error::fault(NO_ANSWER)))?;
    let receipt = call.receipt(shown(&outcome)?).await?;
    let record = Record::decode(receipt.record.clone()).map_err(Error::fault)?;
    let event = record.event.ok_or_else(|| Error::fault("a record says nothing"))?;
    Ok((outcome, receipt, event))
}
