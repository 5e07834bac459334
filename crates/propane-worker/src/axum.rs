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
/// that it knows that it should connect again: somebody else answers then. What arrives within a second is still the app's,
/// as over HTTP; a client that never stops talking is told then.
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
    if shutdown.is_overdue() {
        say_goodbye(socket).await;
        return None;
    }
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

#[cfg(test)]
mod tests {
    use ::axum::Router;
    use ::axum::extract::WebSocketUpgrade;
    use ::axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;
    use crate::activity::DRAIN_REST;

    /// A handshake, and right behind it the text `a` and a close.
    const CLIENT: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
        \x81\x81\0\0\0\0a\x88\x80\0\0\0\0";

    /// What a client that has spoken hears, where the worker was told to end so long before: its own words, or goodbye.
    async fn hears(ended: Option<Duration>) -> Vec<u8> {
        let shutdown = Shutdown::new();
        if let Some(since) = ended {
            shutdown.request_at(Instant::now().checked_sub(since).unwrap());
        }
        let echo = async move |mut socket: WebSocket| {
            while let Some(Ok(message)) = next_message(&mut socket, &shutdown).await {
                let _ = socket.send(message).await;
            }
        };
        let app = Router::new().route("/", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(::axum::serve(listener, app).into_future());
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(CLIENT).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        let answer = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        heard.split_off(answer + 4)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_goes_on_talking_is_told_to_go_after_a_second() {
        let (words, goodbye) = (b"\x81\x01a\x88\x00", b"\x88\x0c\x03\xe9going away");
        assert_eq!(hears(None).await, words);
        assert_eq!(hears(Some(DRAIN_REST / 2)).await, words);
        assert_eq!(hears(Some(DRAIN_REST)).await, goodbye);
    }
}
