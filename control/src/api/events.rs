//! `GET /v1/events`: what happens, as it does, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use tokio::time::timeout;

use super::Shared;
use crate::connection::Lasting;
use crate::data_plane::DataPlane;
use crate::events::Listener;
use crate::problem::Problem;
use crate::state::State;

/// What proxies and clients between see where nothing happens.
const STILL_HERE_AFTER: Duration = Duration::from_secs(15);

/// `GET /v1/events`
pub(super) async fn events<P: DataPlane>(
    extract::State(state): Shared<P>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(id) => Some(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
            let detail = "last-event-id is the `id` of an event, a number";
            Problem::new(StatusCode::BAD_REQUEST, "bad_header", detail)
        })?),
    };
    let seat = state.listening.clone().try_acquire_owned().map_err(|_| {
        let detail = "so many listen already that no more may; one of them has to end";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners", detail)
    })?;
    let listener = state.events.listen(last);
    let (sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(send(state, listener, sender));
    // Free again as soon as the connection ends, and not with the next event.
    let body = body.map_frame(move |frame| {
        let _held = &seat;
        frame
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (kind, Body::new(body)).into_response();
    response.extensions_mut().insert(Lasting);
    Ok(response)
}

/// Sends until nobody reads any more.
async fn send<P: DataPlane>(
    state: Arc<State<P>>,
    mut listener: Listener,
    mut sender: Sender<Bytes>,
) {
    // The head goes out with it: a client sees at once that it listens.
    let mut text = ": listening\n\n".to_owned();
    while sender.send_data(text.into()).await.is_ok() {
        text = match timeout(STILL_HERE_AFTER, listener.next(&state.events)).await {
            Ok(text) => text,
            Err(_) => ": still here\n\n".to_owned(),
        };
    }
}
