//! A future that costs nothing while it has nothing to do.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls a future only when it was woken itself, not whenever its task is. For one that waits beside a busy one: a timer
/// beside a connection.
pub(crate) struct Lazily<F> {
    future: F,
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    is_due: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future + Unpin> Lazily<F> {
    /// The future has to stay with the task that first polls it.
    pub(crate) fn new(future: F) -> Self {
        let woken = Arc::new(Woken { is_due: AtomicBool::new(true), task: Mutex::new(None) });
        Self { future, waker: Waker::from(Arc::clone(&woken)), woken }
    }
}

impl<F: Future + Unpin> Future for Lazily<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let is_due = &self.woken.is_due;
        // Looked at before it is written, because nearly always there is nothing.
        if !is_due.load(Ordering::Relaxed) || !is_due.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        *self.woken.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        let this = &mut *self;
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn it_is_polled_when_it_was_woken_and_not_when_its_task_was() {
        let (polls, waker) = (Cell::new(0), RefCell::new(None));
        let mut lazily = Lazily::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            *waker.borrow_mut() = Some(cx.waker().clone());
            if polls.get() == 2 { Poll::Ready(()) } else { Poll::Pending }
        }));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut lazily).poll(&mut cx);
        assert!(poll().is_pending() && poll().is_pending() && poll().is_pending());
        assert_eq!(polls.get(), 1);
        waker.borrow().as_ref().inspect(|waker: &&Waker| waker.wake_by_ref());
        assert!(poll().is_ready());
    }
}
