//! For apps on axum (feature `axum`): WebSockets that say goodbye when the worker ends.

use std::time::Duration;

use ::axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use tokio::time::timeout;

use crate::shutdown::Shutdown;

/// How long a client may take to answer a goodbye. Most do within a round trip.
const CLOSING: Duration = Duration::from_secs(2);

/// Waits for the next message; none when the connection is over, because the client has ended it or the worker is told
/// to end.
///
/// In the latter case the client is told with the close code 1001 ("going away"), and its own close is waited for, so
/// that it knows that it should connect again: somebody else answers then.
///
/// ```no_run
/// use axum::extract::ws::{WebSocket, WebSocketUpgrade};
/// use axum::{Extension, response::Response};
/// use propane_worker::Shutdown;
///
/// async fn echo(upgrade: WebSocketUpgrade, Extension(shutdown): Extension<Shutdown>) -> Response {
///     upgrade.on_upgrade(async move |mut socket: WebSocket| {
///         while let Some(Ok(message)) = propane_worker::axum::next_message(&mut socket, &shutdown).await {
///             let _ = socket.send(message).await;
///         }
///     })
/// }
/// ```
pub async fn next_message(socket: &mut WebSocket, shutdown: &Shutdown) -> Option<Result<Message, ::axum::Error>> {
    tokio::select! {
        // What has arrived before the end is still the app's.
        biased;
        message = socket.recv() => message,
        () = shutdown.requested() => {
            say_goodbye(socket).await;
            None
        }
    }
}

/// Closes with 1001, and waits for the client to do the same.
async fn say_goodbye(socket: &mut WebSocket) {
    let goodbye = CloseFrame { code: close_code::AWAY, reason: "going away".into() };
    if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
        // Who does not answer has been told all the same.
        let _ = timeout(CLOSING, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}
