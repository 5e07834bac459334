//! An axum app as a worker of propane, with a page, an upload, a stream of events and a WebSocket.
//!
//! Alone:
//!
//! ```text
//! cargo run -p propane-worker --example axum
//! ```
//!
//! Under propane, with `config/app.plist`:
//!
//! ```text
//! propaneAccessories = {
//!   workerCount = 4;
//!   workerCommand = "/path/to/target/debug/examples/axum";
//!   socketStrategy = inherit;
//! };
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::stream::{self, Stream};
use propane_worker::{Server, Shutdown};
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = Router::new()
        .route("/", get(async || "hello from axum\n"))
        .route("/upload", post(upload))
        .route("/events", get(events))
        .route("/echo", get(echo))
        .fallback(async || (axum::http::StatusCode::NOT_FOUND, "not found\n"));
    Server::from_env()?.serve(app).await?;
    Ok(())
}

async fn upload(body: Bytes) -> String {
    format!("{} bytes\n", body.len())
}

/// A number every 100 ms. It ends when the worker does; the client then asks again, and gets another worker.
async fn events(Extension(shutdown): Extension<Shutdown>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let numbers = stream::unfold((0_u64, shutdown), async |(number, shutdown)| {
        tokio::select! {
            () = shutdown.requested() => None,
            () = sleep(Duration::from_millis(100)) => {
                Some((Ok(Event::default().data(number.to_string())), (number + 1, shutdown)))
            }
        }
    });
    Sse::new(numbers).keep_alive(KeepAlive::default())
}

/// Sends back what it gets, until the client closes or the worker ends.
async fn echo(upgrade: WebSocketUpgrade, Extension(shutdown): Extension<Shutdown>) -> Response {
    upgrade
        .on_upgrade(async move |mut socket: WebSocket| {
            while let Some(Ok(message)) = propane_worker::axum::next_message(&mut socket, &shutdown).await {
                let is_content = matches!(message, Message::Text(_) | Message::Binary(_));
                if is_content && socket.send(message).await.is_err() {
                    return;
                }
            }
        })
        .into_response()
}
