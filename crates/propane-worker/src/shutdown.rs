//! How an app learns that the worker is to end.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(feature = "axum")]
use crate::activity::DRAIN_REST;

/// Whether the worker has been told to end. Every request carries one as an extension.
///
/// Who answers with something that does not end by itself, such as a stream of events or a WebSocket, ends it when this
/// is requested; what is still open when [`Settings::graceful_shutdown`](crate::Settings::graceful_shutdown) is nearly
/// over is cut.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<Option<Instant>>>);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(crate) fn request(&self) {
        self.request_at(Instant::now());
    }

    pub(crate) fn request_at(&self, now: Instant) {
        self.0.send_replace(Some(now));
    }

    /// Whether what was on its way at that time has had time to arrive.
    #[cfg(feature = "axum")]
    pub(crate) fn is_overdue(&self) -> bool {
        self.0.borrow().is_some_and(|since| since.elapsed() >= DRAIN_REST)
    }

    /// Whether the worker has been told to end.
    pub fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until the worker is told to end. Nothing is lost if the future is dropped.
    pub async fn requested(&self) {
        // Cannot fail, because the sender is this one.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}
