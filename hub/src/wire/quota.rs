//! What a system may cause in a day: records, checks and bytes, by an allowance that
//! fills again all the time. In memory only: a restart fills it. Never stands
//! before an acknowledgement or a rejection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axis_proto::{envelope::v1::Priority, hub::v1::Reason, id::SystemId};

use crate::{
    clock::Clock,
    config,
    error::{Refusal, Result},
    limits::{DAY_MS, Millis},
};

const DAY_NS: u128 = DAY_MS as u128 * 1_000_000;

/// The allowances of all systems. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    day: config::Quota,
    clock: Clock,
    /// One for each system that ever spent; the directory bounds them.
    spent: Mutex<HashMap<SystemId, Lanes>>,
}

/// Which allowance is spent from: a flood of ordinary envelopes leaves that
/// of urgent ones as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Everything else.
    Ordinary,
    /// Envelopes of a priority above normal.
    Urgent,
}

/// What something costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Records, or deliveries, each of which becomes some.
    pub records: u64,
    /// Bytes of envelopes and documents, those that were uploaded in whole
    /// blocks of the disk.
    pub bytes: u64,
}

/// What a system spent of each.
#[derive(Debug, Default)]
struct Lanes {
    ordinary: Spent,
    urgent: Spent,
}

impl Lanes {
    fn of(&mut self, lane: Lane) -> &mut Spent {
        match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Urgent => &mut self.urgent,
        }
    }
}

/// When the allowances will be whole again, on the monotonic clock: an
/// allowance is used up if that is a day away.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    records_ns: u128,
    bytes_ns: u128,
}

impl Lane {
    /// The lane of a priority.
    pub fn of(priority: Priority) -> Self {
        match priority {
            Priority::Unspecified | Priority::Normal => Self::Ordinary,
            Priority::Urgent | Priority::VeryUrgent | Priority::Express | Priority::ExpressTimed => {
                Self::Urgent
            }
        }
    }
}

impl Quota {
    /// With whole allowances.
    pub fn new(day: config::Quota, clock: Clock) -> Self {
        Self(Arc::new(Inner { day, clock, spent: Mutex::default() }))
    }

    /// Spends, if there is enough left.
    ///
    /// # Errors
    /// `QUOTA` with the time after which there will be.
    pub fn spend(&self, system: &SystemId, lane: Lane, cost: Cost) -> Result<()> {
        let now_ns = self.now_ns();
        self.change(system, lane, |spent| {
            let after = spent.with(now_ns, self.worth(cost));
            let over = after.records_ns.max(after.bytes_ns).saturating_sub(now_ns + DAY_NS);
            // what no day's allowance holds is let through when all is whole
            if over > 0 && spent.records_ns.max(spent.bytes_ns) > now_ns {
                return Err(wait(over.min(spent.records_ns.max(spent.bytes_ns) - now_ns)).into());
            }
            *spent = after;
            Ok(())
        })
    }

    /// Spends what was caused already, and leaves less than nothing if need
    /// be.
    pub fn charge(&self, system: &SystemId, lane: Lane, cost: Cost) {
        let now_ns = self.now_ns();
        self.change(system, lane, |spent| *spent = spent.with(now_ns, self.worth(cost)));
    }

    /// Gives back what was spent for nothing.
    pub fn give_back(&self, system: &SystemId, lane: Lane, cost: Cost) {
        let worth = self.worth(cost);
        self.change(system, lane, |spent| {
            spent.records_ns = spent.records_ns.saturating_sub(worth.records_ns);
            spent.bytes_ns = spent.bytes_ns.saturating_sub(worth.bytes_ns);
        });
    }

    fn worth(&self, cost: Cost) -> Spent {
        let part = |of: u64, day: u64| u128::from(of) * DAY_NS / u128::from(day.max(1));
        Spent {
            records_ns: part(cost.records, self.0.day.records_per_day),
            bytes_ns: part(cost.bytes, self.0.day.bytes_per_day),
        }
    }

    fn now_ns(&self) -> u128 {
        u128::from(self.0.clock.monotonic_us()) * 1_000
    }

    fn change<T>(&self, system: &SystemId, lane: Lane, change: impl FnOnce(&mut Spent) -> T) -> T {
        let mut spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        match spent.get_mut(system) {
            Some(lanes) => change(lanes.of(lane)),
            None => change(spent.entry(system.clone()).or_default().of(lane)),
        }
    }
}

impl Spent {
    fn with(self, now_ns: u128, more: Self) -> Self {
        Self {
            records_ns: self.records_ns.max(now_ns) + more.records_ns,
            bytes_ns: self.bytes_ns.max(now_ns) + more.bytes_ns,
        }
    }
}

fn wait(ns: u128) -> Refusal {
    let ms = Millis::try_from(ns.div_ceil(1_000_000)).unwrap_or(DAY_MS).clamp(1, DAY_MS);
    Refusal::new(Reason::Quota).retry_after_ms(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const ONE: Cost = Cost { records: 1, bytes: 10 };

    fn quota(records_per_day: u64, bytes_per_day: u64) -> (Quota, Clock) {
        let clock = Clock::manual(1_790_000_000_000);
        (Quota::new(config::Quota { records_per_day, bytes_per_day }, clock.clone()), clock)
    }

    fn system(id: &str) -> SystemId {
        id.parse().unwrap()
    }

    fn refused(result: Result<()>) -> Millis {
        let Err(Error::Refused(refusal)) = result else { panic!("not refused") };
        assert_eq!(refusal.reason, Reason::Quota);
        refusal.retry_after_ms
    }

    #[test]
    fn an_allowance_is_used_up_and_fills_again() {
        let (quota, clock) = quota(24, 1_000_000);
        let vpcp = system("vpcp");
        for _ in 0..24 {
            quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
        }
        let wait_ms = refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
        assert!((1..=DAY_MS / 24).contains(&wait_ms), "{wait_ms}");
        clock.advance(wait_ms);
        quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
        refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
        clock.advance(2 * DAY_MS);
        for _ in 0..24 {
            quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
        }
        refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
    }

    #[test]
    fn each_system_and_lane_has_its_own() {
        let (quota, _) = quota(1_000, 25);
        let (vpcp, byt) = (system("vpcp"), system("byt"));
        quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
        quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
        refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
        quota.spend(&vpcp, Lane::Urgent, ONE).unwrap();
        quota.spend(&byt, Lane::Ordinary, ONE).unwrap();
        quota.give_back(&vpcp, Lane::Ordinary, ONE);
        quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
    }

    #[test]
    fn what_was_caused_is_paid_later() {
        let (quota, clock) = quota(100, 1_000_000);
        let vpcp = system("vpcp");
        quota.charge(&vpcp, Lane::Ordinary, Cost { records: 300, bytes: 0 });
        refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
        clock.advance(2 * DAY_MS);
        refused(quota.spend(&vpcp, Lane::Ordinary, ONE));
        clock.advance(DAY_MS);
        quota.spend(&vpcp, Lane::Ordinary, ONE).unwrap();
    }

    #[test]
    fn what_is_larger_than_a_day_goes_through_once_all_is_whole() {
        let (quota, clock) = quota(1_000, 100);
        let (vpcp, large) = (system("vpcp"), Cost { records: 1, bytes: 250 });
        quota.spend(&vpcp, Lane::Ordinary, large).unwrap();
        let wait_ms = refused(quota.spend(&vpcp, Lane::Ordinary, large));
        clock.advance(wait_ms);
        clock.advance(DAY_MS);
        clock.advance(DAY_MS);
        quota.spend(&vpcp, Lane::Ordinary, large).unwrap();
    }
}
