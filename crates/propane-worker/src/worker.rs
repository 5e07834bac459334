//! What all connections of a worker share.

use std::ops::RangeInclusive;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::header::HeaderValue;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::access_log::Record;
use crate::activity::Activity;
use crate::endpoints::Known;
use crate::guard::HeadLimits;
use crate::identity::Numbers;
use crate::listener::Peer;
use crate::metrics::{Metrics, Sessions};
use crate::own_headers::OwnHeaders;
use crate::refusal::{Refusal, Timings};
use crate::settings::Settings;
use crate::shutdown::Shutdown;
use crate::turns::Turns;

/// Connections over the session limit that are told so and read on at the same time. Each takes a descriptor for up to a
/// second; beyond this number they are told in passing, so that a flood cannot use up the descriptors of those that have
/// a place, nor the memory.
const REFUSED_AT_ONCE: RangeInclusive<u32> = 16..=4096;

/// How many that are where the process may have so many descriptors, of which some are for files and the like.
fn refused_at_once(descriptors: Option<u64>, sessions: u32) -> u32 {
    const OTHERS: u64 = 64;
    let left = descriptors.unwrap_or(u64::MAX).saturating_sub(u64::from(sessions) + OTHERS);
    u32::try_from(left / 2).unwrap_or(u32::MAX).clamp(*REFUSED_AT_ONCE.start(), *REFUSED_AT_ONCE.end())
}

/// What all connections of a worker share.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) turns: Turns,
    pub(crate) numbers: Numbers,
    pub(crate) shutdown: Shutdown,
    pub(crate) own_headers: OwnHeaders,
    draining: AtomicBool,
    dates: Dates,
    sessions: Places,
    websockets: Places,
    refused: Places,
    pid: u32,
    started: Instant,
}

/// A number of things at once.
struct Places {
    free: Arc<Semaphore>,
    all: usize,
}

impl Places {
    fn new(count: u32) -> Self {
        let all = usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Also one that is given back now: who has just closed a connection may open another, and the runtime looks at the
    /// sockets first, and then at the connections that have changed.
    async fn take_again(&self) -> Option<OwnedSemaphorePermit> {
        const TURNS: u32 = 2;
        for _ in 0..TURNS {
            let place = self.take();
            if place.is_some() {
                return place;
            }
            yield_now().await;
        }
        self.take()
    }

    fn taken(&self) -> u64 {
        (self.all - self.free.available_permits()) as u64
    }
}

impl Worker {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let pid = process::id();
        let descriptors = getrlimit(Resource::Nofile).current;
        Arc::new(Self {
            metrics: Metrics::default(),
            turns: Turns::new(settings.limits.turns),
            numbers: Numbers::from_kernel(),
            shutdown: Shutdown::new(),
            own_headers: OwnHeaders::new(settings.observability, &settings.cluster, pid),
            draining: AtomicBool::new(false),
            dates: Dates::default(),
            sessions: Places::new(settings.limits.http_sessions),
            websockets: Places::new(settings.limits.websocket_sessions),
            refused: Places::new(refused_at_once(descriptors, settings.limits.http_sessions)),
            pid,
            started: Instant::now(),
            settings,
        })
    }

    pub(crate) async fn take_session(&self) -> Option<OwnedSemaphorePermit> {
        self.sessions.take_again().await
    }

    pub(crate) async fn take_websocket(&self) -> Option<OwnedSemaphorePermit> {
        self.websockets.take_again().await
    }

    /// A place among those that are told that there is none.
    pub(crate) fn take_refused(&self) -> Option<OwnedSemaphorePermit> {
        self.refused.take()
    }

    /// Nothing is accepted any more; every answer is the last one of its connection.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.shutdown.request();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn head_limits(&self) -> HeadLimits {
        let limits = self.settings.request_limits;
        let bytes = |limit| usize::try_from(limit).unwrap_or(usize::MAX);
        HeadLimits { line: bytes(limits.line_bytes), head: bytes(limits.head_bytes) }
    }

    /// What the endpoints tell.
    pub(crate) fn known(&self) -> Known<'_> {
        Known {
            wanted: &self.settings.observability,
            cluster: &self.settings.cluster,
            metrics: &self.metrics,
            sessions: Sessions { http: self.sessions.taken(), websocket: self.websockets.taken() },
            pid: self.pid,
            uptime: self.started.elapsed(),
            now: SystemTime::now(),
        }
    }

    /// The answer to a connection that hyper does not get to see, counted and logged.
    pub(crate) fn refuse(&self, refusal: Refusal, peer: Peer, activity: &Activity) -> Vec<u8> {
        self.metrics.refused(refusal);
        let waited = activity.waiting_since().map(|since| since.elapsed()).unwrap_or_default();
        if let Some(format) = self.settings.log_format {
            Record::refused(format, peer, refusal.status(), waited).write();
        }
        refusal.to_bytes(self.shown(Timings { parse: waited, total: waited }))
    }

    /// Timings, where the answers are to show them.
    pub(crate) fn shown(&self, timings: Timings) -> Option<Timings> {
        self.settings.observability.performance_headers.then_some(timings)
    }

    /// The value of the `Date` header.
    pub(crate) fn date(&self, now: Instant) -> HeaderValue {
        self.dates.at(now, SystemTime::now)
    }
}

/// The last date that was asked for, and until when it is right: it is the same for a second.
#[derive(Default)]
struct Dates(Mutex<Option<(Instant, HeaderValue)>>);

impl Dates {
    /// `wall` is asked once a second only. If it is set meanwhile, the date follows within that second.
    fn at(&self, now: Instant, wall: impl FnOnce() -> SystemTime) -> HeaderValue {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((until, date)) if now < *until => date.clone(),
            _ => {
                let wall = wall();
                let part = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
                let left = Duration::from_secs(1).saturating_sub(Duration::from_nanos(part.into()));
                // Cannot fail, because a date is ASCII.
                let date = HeaderValue::try_from(httpdate::fmt_http_date(wall)).unwrap_or(HeaderValue::from_static(""));
                *last = Some((now + left, date.clone()));
                date
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_the_second() {
        let (dates, start) = (Dates::default(), Instant::now());
        let at = |millis| {
            let passed = Duration::from_millis(millis);
            dates.at(start + passed, || SystemTime::UNIX_EPOCH + Duration::from_millis(300) + passed)
        };
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(699), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(700), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(at(10_000), "Thu, 01 Jan 1970 00:00:10 GMT");
    }

    #[test]
    fn who_is_refused_takes_no_descriptor_from_whom_is_served() {
        for (descriptors, sessions, refused) in
            [(Some(1024), 256, 352), (Some(1024), 100_000, 16), (Some(1_048_576), 256, 4096), (None, u32::MAX, 4096)]
        {
            assert_eq!(refused_at_once(descriptors, sessions), refused);
        }
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(1);
        let place = places.take();
        assert!(place.is_some() && places.take().is_none());
        assert_eq!(places.taken(), 1);
        drop(place);
        assert_eq!(places.taken(), 0);
        assert_eq!(Places::new(100_000).free.available_permits(), 100_000);
    }
}
