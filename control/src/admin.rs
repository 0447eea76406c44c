//! The admin listener: the probes' three paths and `/version`, so far.

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::data_plane::DataPlane;
use crate::probes;
use crate::state::State;

pub(crate) fn router<P: DataPlane>(state: Arc<State<P>>) -> Router {
    let exists = "admin serves GET /livez, /readyz, /metrics and /version";
    let routes = probes::routes().route("/version", get(version));
    probes::with_refusals(routes.with_state(state), exists)
}

/// Which program runs which config.
async fn version<P: DataPlane>(extract::State(state): extract::State<Arc<State<P>>>) -> Response {
    let (generation, hash) = state.desired.live();
    let body = json!({
        "version": state.program.version,
        "generation": generation,
        "config_hash": hash,
        "io_backend": state.program.io_backend,
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
