//! How an app learns that the worker is to end.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether the worker has been told to end. Every request carries one as an extension.
///
/// Who answers with something that does not end by itself, such as a stream of events or a WebSocket, ends it when this
/// is requested; what is still open when [`Settings::graceful_shutdown`](crate::Settings::graceful_shutdown) is nearly
/// over is cut.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether the worker has been told to end.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the worker is told to end. Nothing is lost if the future is dropped.
    pub async fn requested(&self) {
        // Cannot fail, because the sender is this one.
        let _ = self.0.subscribe().wait_for(|requested| *requested).await;
    }
}
