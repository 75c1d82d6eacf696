//! What leaves the hub: operators purge envelopes, and segments of the journal
//! are written anew without the content of what was erased. The power may go
//! between any two operations of it, too.

use std::{rc::Rc, time::Duration};

use axis_hub::{
    machine::{self, Command, query},
    state::read_once,
};
use axis_proto::record::v1::Record;
use prost::Message as _;
use tokio::time::sleep;

use crate::{calls::Call, hub::Hub, world::World};

/// Two operators purge an envelope, over as many lives as it takes.
pub async fn purge(world: Rc<World>, sequence: u64) {
    let steps = [
        Command::RequestPurge { envelope_sequence: sequence, operator: "op".into(), remark: String::new() },
        Command::ConfirmPurge { envelope_sequence: sequence, operator: "op2".into() },
        Command::ProceedPurge { envelope_sequence: sequence },
    ];
    while !world.hub().is_some_and(|hub| is_erased(&hub, sequence)) {
        for command in &steps {
            // refused if it is done already, or lost: then it is asked again
            let answered = Call::command(&world, command.clone()).await;
            if answered.is_ok() && matches!(command, Command::ConfirmPurge { .. }) {
                world.withdrawn(sequence);
            }
        }
        sleep(Duration::from_millis(1 + world.random(20) as u64)).await;
    }
}

fn is_erased(hub: &Hub, sequence: u64) -> bool {
    read_once(&*hub.state, |read| query::is_erased(read, sequence))
}

/// The last segment is ended, so that it can be written anew.
pub async fn roll(world: Rc<World>) {
    if let Some(hub) = world.hub() {
        let _nobody_waits = hub.committer.roll().await;
    }
}

/// Writes a segment anew without what was erased; names the envelopes whose
/// content is not in it any more. A failure leaves it as it was, or done.
pub fn write_anew(hub: &Hub, first_sequence: u64) -> Vec<u64> {
    let mut gone = Vec::new();
    let mut choose = |entry: &axis_hub::journal::Entry| {
        let record = Record::decode(entry.record.clone()).expect("a record");
        let places = read_once(&*hub.state, |read| machine::erasable(read, &record));
        if !places.is_empty() {
            gone.push(record.sequence);
        }
        places
    };
    match hub.eraser.erase(first_sequence, &mut choose) {
        Ok(_) => gone,
        Err(_) => Vec::new(),
    }
}
