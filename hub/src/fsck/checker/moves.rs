//! Which system may have which delivery: the directory in the checker's own
//! model, and what must move when it changes.

use axis_proto::record::v1::{
    Agency, Delivery, DirectoryChanged, Leased, MailboxSearched, Moved, directory_entry::Value,
};

use super::{Checker, Course};

impl Checker {
    /// Agencies go from one system to another: what waits there must follow.
    pub(super) fn agencies_changed(&mut self, event: &DirectoryChanged) {
        for entry in &event.entries {
            let Some(Value::Agency(Agency { code, system, .. })) = &entry.value else { continue };
            let Some(before) = self.serves.insert(code.clone(), system.clone()) else { continue };
            let mailbox = self.mailboxes.entry(before.clone()).or_default();
            if before != *system && mailbox.unsettled > 0 {
                self.searching.insert(before, mailbox.high);
            }
        }
    }

    /// A release that knew no moves let a system go on with what it had. Its
    /// journal has none; in one that has, nothing is leased to who may not.
    pub(super) fn leased_to(&mut self, at: u64, event: &Leased) {
        let Some(delivery) = &event.delivery else { return };
        let serves = self.serves.get(&delivery.agency).is_some_and(|system| *system == delivery.system);
        if !serves && (self.knows_moves || !self.searching.contains_key(&delivery.system)) {
            self.report(Some(at), "leased to a system that does not serve its agency".into());
        }
    }

    pub(super) fn moved(&mut self, at: u64, event: &Moved) {
        self.knows_moves = true;
        let Some(delivery) = &event.delivery else {
            return self.report(Some(at), "the record names no delivery".into());
        };
        let serves = self.serves.get(&delivery.agency).map_or("", String::as_str);
        if serves != event.system || event.system == delivery.system {
            self.report(Some(at), "moved to a system that does not serve its agency, or to its own".into());
        }
        let left = self.mailboxes.entry(delivery.system.clone()).or_default();
        left.unsettled = left.unsettled.saturating_sub(1);
        self.next_number(at, &event.system, event.mailbox_sequence);
        self.course(at, event.delivery.as_ref(), |course| {
            let wrong = course.leased || course.settlement.is_some();
            course.system.clone_from(&event.system);
            course.mailbox_sequence = event.mailbox_sequence;
            course.attempts_elsewhere = course.attempt;
            wrong.then(|| "moved though it is on lease, or settled".into())
        });
    }

    pub(super) fn mailbox_searched(&mut self, at: u64, event: &MailboxSearched) {
        self.knows_moves = true;
        match self.searching.get(&event.system) {
            None => self.report(Some(at), "a mailbox was looked through that nobody had left".into()),
            Some(to) if event.up_to > *to => self.report(Some(at), "looked at more than there was".into()),
            Some(to) if event.up_to == *to => drop(self.searching.remove(&event.system)),
            Some(_) => {}
        }
    }

    /// Gives a mailbox's next number to a delivery.
    pub(super) fn next_number(&mut self, at: u64, system: &str, number: u64) {
        let mailbox = self.mailboxes.entry(system.to_owned()).or_default();
        let expected = mailbox.high + 1;
        mailbox.high = number;
        mailbox.unsettled += 1;
        if number != expected {
            self.report(Some(at), format!("mailbox number {number} where {expected} belongs"));
        }
    }

    pub(super) fn remember_released(&mut self, delivery: Option<&Delivery>) {
        self.released.extend(delivery.map(|it| (it.envelope_sequence, it.recipient_index)));
    }

    /// What was on lease when its agency went elsewhere follows in the batch in
    /// which that ends.
    pub(super) fn released_where_served(&mut self, place: Option<u64>) {
        for id in std::mem::take(&mut self.released) {
            let Some(course) = self.deliveries.get(&id) else { continue };
            let known = self.knows_moves || !self.searching.contains_key(&course.system);
            if known && self.is_astray(course) {
                let what = format!("the delivery {}-{} did not follow its agency", id.0, id.1);
                self.report(place, what);
            }
        }
    }

    /// Whether a delivery waits where its agency is not served.
    fn is_astray(&self, course: &Course) -> bool {
        let serves = self.serves.get(&course.agency).map_or("", String::as_str);
        course.settlement.is_none() && !course.leased && serves != course.system
    }

    /// What must have moved by the end: where nothing is left to look through,
    /// nothing waits for an agency that another system serves.
    pub(super) fn all_moved(&mut self) {
        let astray = self
            .deliveries
            .iter()
            .find(|(_, course)| self.is_astray(course) && !self.searching.contains_key(&course.system));
        if let Some((id, _)) = astray {
            let what = format!("the delivery {}-{} waits where its agency is not served", id.0, id.1);
            self.report(None, what);
        }
    }
}
