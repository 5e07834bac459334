//! The task that drives a connection to its end, within its timeouts.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::activity::{Activity, Verdict};
use crate::connection::{Drain, LINGERING_CLOSE};
use crate::lazily::Lazily;

/// Runs a connection to its end: as long as it has work, is within its timeouts, and the worker is not draining.
/// `end_soon` has it end after what it is at.
pub(crate) async fn drive<C>(
    connection: C,
    end_soon: fn(Pin<&mut C>),
    activity: &Activity,
    mut drain: Drain,
    patience: Duration,
) where
    C: Future,
{
    let mut connection = pin!(connection);
    let mut now = Instant::now();
    loop {
        let draining_since = *drain.borrow_and_update();
        match activity.verdict(now, draining_since, patience) {
            Verdict::Watch { until } => {
                let watch = pin!(until_or_drain(until, &mut drain));
                let watch = Lazily::new(watch);
                tokio::select! {
                    // As in `first`.
                    biased;
                    _ = connection.as_mut() => return,
                    looked_at = watch => now = looked_at,
                }
            }
            Verdict::GoAway => {
                end_soon(connection.as_mut());
                activity.told_to_go();
            }
            Verdict::Close => {
                end_soon(connection.as_mut());
                // It has nothing to say: only a peer that takes no bytes could keep it longer than its own close does.
                let _ = timeout(2 * LINGERING_CLOSE, connection).await;
                return;
            }
            Verdict::Cut => return,
        }
    }
}

/// Waits for `until` or for the drain to begin, whichever comes first, and then has the runtime look at the sockets
/// once more. Gives the time before that look: what is judged by it has been read up to it.
///
/// Without the look, a timer that fires although the sockets were not looked at (the wait for them was interrupted, as
/// by SIGCONT) closes a connection whose next request has long arrived; with a later time, so does a process that
/// stands still in between.
pub(crate) async fn until_or_drain(until: Instant, drain: &mut Drain) -> Instant {
    let changed = async {
        if drain.changed().await.is_err() {
            // The server is gone, and with it the only one who could start a drain.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = sleep_until(until) => {}
        () = changed => {}
    }
    let looked_at = Instant::now();
    tokio::task::yield_now().await;
    looked_at
}
