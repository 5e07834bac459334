//! Who may be served now, who waits, and for whom there is no room even to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings;

/// The app's places and the queue before them; without limits, everybody is served at once.
#[derive(Debug)]
pub(crate) struct Turns(Option<Queue>);

#[derive(Debug)]
struct Queue {
    running: Arc<Semaphore>,
    waiting: AtomicU32,
    most_waiting: u32,
}

/// A request's place with the app, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
}

/// There is no room to wait in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

impl Turns {
    pub(crate) fn new(limits: Option<settings::Turns>) -> Self {
        Self(limits.map(|limits| Queue {
            running: Arc::new(Semaphore::new(usize::try_from(limits.running).unwrap_or(usize::MAX))),
            waiting: AtomicU32::new(0),
            most_waiting: limits.waiting,
        }))
    }

    /// Waits for a place, in the order of asking.
    pub(crate) async fn take(&self) -> Result<Turn, QueueFull> {
        let Some(queue) = &self.0 else { return Ok(Turn { _place: None }) };
        if let Ok(place) = Arc::clone(&queue.running).try_acquire_owned() {
            return Ok(Turn { _place: Some(place) });
        }
        let _waiting = queue.wait()?;
        // The semaphore is never closed.
        let place = Arc::clone(&queue.running).acquire_owned().await.map_err(|_| QueueFull)?;
        Ok(Turn { _place: Some(place) })
    }
}

impl Queue {
    fn wait(&self) -> Result<Waiting<'_>, QueueFull> {
        let joined = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < self.most_waiting).then_some(waiting + 1)
        });
        joined.map(|_| Waiting(&self.waiting)).map_err(|_| QueueFull)
    }
}

/// A place in the queue, which is left also where the client goes away.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn one_works_one_waits_and_the_third_is_told() {
        let turns = Turns::new(Some(settings::Turns { running: 1, waiting: 1 }));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(first)) = pin!(turns.take()).poll(&mut cx) else { panic!("the first has its turn") };
        {
            let mut second = pin!(turns.take());
            assert!(second.as_mut().poll(&mut cx).is_pending());
            assert!(matches!(pin!(turns.take()).poll(&mut cx), Poll::Ready(Err(QueueFull))));
            drop(first);
            assert!(matches!(second.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
        }
        let Poll::Ready(Ok(_third)) = pin!(turns.take()).poll(&mut cx) else { panic!("everybody has left") };
        {
            let mut gone = pin!(turns.take());
            assert!(gone.as_mut().poll(&mut cx).is_pending());
        }
        assert!(pin!(turns.take()).poll(&mut cx).is_pending(), "who has gone does not wait");
    }

    #[test]
    fn without_limits_nobody_waits() {
        let turns = Turns::new(None);
        let mut cx = Context::from_waker(Waker::noop());
        let places: Vec<_> = (0..10_000).map(|_| pin!(turns.take()).poll(&mut cx)).collect();
        assert!(places.iter().all(|place| matches!(place, Poll::Ready(Ok(_)))));
    }
}
