//! The probes listener: is it alive, does it want traffic, what has it counted.

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::data_plane::DataPlane;
use crate::problem::Problem;
use crate::process;
use crate::state::State;

type Shared<P> = extract::State<Arc<State<P>>>;

/// The three paths of the probes listener.
pub(crate) fn router<P: DataPlane>(state: Arc<State<P>>) -> Router {
    let exists = "this listener serves GET /livez, /readyz and /metrics; the rest is on admin";
    with_refusals(routes().with_state(state), exists)
}

/// The same three, for admin to add to.
pub(crate) fn routes<P: DataPlane>() -> Router<Arc<State<P>>> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// Answers everything that no route takes with what there is instead.
pub(crate) fn with_refusals(router: Router, exists: &'static str) -> Router {
    let not_allowed = StatusCode::METHOD_NOT_ALLOWED;
    router
        .fallback(move || async move { Problem::new(StatusCode::NOT_FOUND, "not_found", exists) })
        .method_not_allowed_fallback(move || async move {
            Problem::new(not_allowed, "method_not_allowed", exists)
        })
}

/// 200 while every worker answers.
async fn livez<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    match state.plane.answers().await {
        Ok(()) => "alive\n".into_response(),
        Err(silent) => unavailable(&silent.to_string()),
    }
}

/// 200 while this proxy wants traffic.
async fn readyz<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    match state.not_ready_because() {
        None => "ready\n".into_response(),
        Some(reason) => unavailable(&reason),
    }
}

/// What the workers have counted since the start, gathered now.
async fn metrics<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let mut text = match state.plane.metrics().await {
        Ok(text) => text,
        Err(silent) => return unavailable(&silent.to_string()),
    };
    state.desired.render(&mut text);
    process::render(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}
