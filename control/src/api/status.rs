//! What runs: for people who ask what is going on.

use axum::extract;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::body::{Text, expect_json};
use super::{Shared, json_response};
use crate::data_plane::{DataPlane, Silent};
use crate::problem::Problem;

/// `GET /v1/status`
pub(super) async fn status<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest();
    let phase = *state.phase.borrow();
    let silent = state.plane.answers().await.err();
    let not_ready = state.not_ready_because();
    json_response(&json!({
        "version": state.program.version,
        "phase": phase.name(),
        "ready": not_ready.is_none(),
        "not_ready_because": not_ready,
        "generation": newest.number,
        "generations_in_use": state.plane.generations_in_use(),
        "etag": newest.loaded.hash,
        "origin": newest.origin,
        "unsaved": state.desired.is_unsaved(),
        "files_refused_because": state.desired.files_refused_because(),
        "live": newest.live(),
        "workers": state.plane.workers(),
        "silent_workers": silent.map(|silent| silent.to_string()),
        "io_backend": state.program.io_backend,
        "uptime_s": state.started.elapsed().as_secs_f64(),
        "listeners": state.plane.listeners(),
    }))
}

/// `GET /v1/workers`
pub(super) async fn workers<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let silent = state.plane.answers().await.err();
    let silent = silent.as_ref().map(Silent::numbers).unwrap_or_default();
    let workers = 0..state.plane.workers();
    let list: Vec<Json> = workers
        .map(|worker| json!({ "worker": worker, "answers": !silent.contains(&worker) }))
        .collect();
    json_response(&Json::from(list))
}

/// `GET /v1/listeners`
pub(super) async fn listeners<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    json_response(&state.plane.listeners())
}

/// `GET /v1/routes`
pub(super) async fn routes<P: DataPlane>(
    extract::State(state): Shared<P>,
) -> Result<Response, Problem> {
    Ok(json_response(&state.plane.routes().await?))
}

/// How many connections of each worker are listed, and may be.
const CONNECTIONS_USUAL: usize = 1_000;
const CONNECTIONS_MAX: usize = 5_000;

/// The query of a list that may be long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bounded {
    limit: Option<usize>,
}

/// `GET /v1/connections`
pub(super) async fn connections<P: DataPlane>(
    extract::State(state): Shared<P>,
    query: Result<extract::Query<Bounded>, QueryRejection>,
) -> Result<Response, Problem> {
    let most = query?.limit.unwrap_or(CONNECTIONS_USUAL).min(CONNECTIONS_MAX);
    Ok(json_response(&state.plane.connections(most).await?))
}

/// `GET /v1/limits`
pub(super) async fn limits<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    json_response(&state.plane.limits())
}

/// `POST /v1/explain`
pub(super) async fn explain<P: DataPlane>(
    extract::State(state): Shared<P>,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let question: Json = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "not_parseable", error.to_string())
    })?;
    let unclear = |why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unclear_question", why);
    Ok(json_response(&state.plane.explain(&question).await.map_err(unclear)?))
}
