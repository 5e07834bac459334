//! Looks at workers' resources, and recycling: only for those who are about, only for a reason.

use std::time::Duration;

use propane_core::{Action, RecycleReason, Report, Role, Sample, Time, WorkerId, fd_usage_percent};

use super::books::{Books, Entry};
use super::{Context, Violation, ensure};

const REASON: &str = "a worker is recycled for the reason that is reported";

/// How many samples in a row must be over the limit.
const STRIKES: u32 = 3;

/// The rules about resources.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    looked_at: Option<Time>,
    look_again_at: Option<Time>,
}

impl Resources {
    /// A sample came in, over the limit for memory or not.
    pub(crate) fn sampled(books: &mut Books, worker: WorkerId, over: bool) {
        if let Some(entry) = books.get_mut(worker).filter(|entry| entry.is_wanted()) {
            entry.rss_strikes = if over { entry.rss_strikes + 1 } else { 0 };
        }
    }

    pub(crate) fn action(&mut self, context: &Context, books: &mut Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Sample { worker } => self.look(context, books.known(*worker)?),
            Action::Report(Report::WorkerRecycleRequested { worker, reason, sample }) => {
                let entry = books.known(*worker)?;
                ensure(!std::mem::replace(&mut entry.recycled, true), REASON, || format!("twice: {entry:?}"))?;
                is_justified(context, entry, *reason, sample.as_ref())
            }
            Action::Report(Report::WorkerReady { worker, .. }) => {
                books.known(*worker)?.lifetime = context.policy.max_lifetime;
                Ok(())
            }
            // The looks may have been switched off and on.
            Action::Report(Report::ReloadStarted { .. } | Report::ReloadFailed { .. }) => {
                self.look_again_at = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Only HTTP workers that are to stay, all at once, and not more often than the policy says.
    fn look(&mut self, context: &Context, entry: &Entry) -> Result<(), Violation> {
        let stays = entry.told.is_none() && entry.killed.is_none() && entry.aborted_at.is_none();
        let fit = entry.role == Role::Http && stays && context.policy.samples();
        ensure(fit, "only workers that are to stay are looked at", || format!("{entry:?}"))?;
        let rested = self.look_again_at.is_none_or(|at| at <= context.now) || self.looked_at == Some(context.now);
        ensure(rested, "workers are looked at once an interval", || {
            format!("{:?} at {}", self.looked_at, context.now)
        })?;
        self.looked_at = Some(context.now);
        self.look_again_at = Some(context.now + context.policy.sample_interval);
        Ok(())
    }

    /// Nobody gets older than the lifetime allows without being put on the list.
    pub(crate) fn finish(context: &Context, books: &Books) -> Result<(), Violation> {
        let forgotten = books.present().find(|entry| {
            let most = entry.lifetime.map(|lifetime| lifetime * 11 / 10);
            let old = most.zip(entry.ready_at).is_some_and(|(most, at)| context.now.since(at) > most);
            old && entry.serves() && !entry.recycled
        });
        ensure(forgotten.is_none(), "workers that are old enough are recycled", || format!("{forgotten:?}"))
    }
}

fn is_justified(
    context: &Context,
    entry: &Entry,
    reason: RecycleReason,
    sample: Option<&Sample>,
) -> Result<(), Violation> {
    let limits = context.policy.fd_limits;
    let holds = match (reason, sample) {
        (RecycleReason::MaxLifetime, None) => is_old(context, entry),
        (RecycleReason::MaxRss, Some(_)) => entry.rss_strikes >= STRIKES,
        (RecycleReason::FdCount, Some(sample)) => {
            limits.retire_count > 0 && sample.fd_count >= u64::from(limits.retire_count)
        }
        (RecycleReason::FdPercent, Some(sample)) => {
            limits.retire_percent > 0 && fd_usage_percent(sample) >= u64::from(limits.retire_percent)
        }
        _ => false,
    };
    ensure(holds && entry.serves(), REASON, || format!("{reason:?} of {entry:?} with {sample:?}"))
}

/// A lifetime varies by a tenth.
fn is_old(context: &Context, entry: &Entry) -> bool {
    let least = entry.lifetime.map_or(Duration::MAX, |lifetime| lifetime * 9 / 10);
    entry.ready_at.is_some_and(|at| context.now.since(at) >= least)
}
