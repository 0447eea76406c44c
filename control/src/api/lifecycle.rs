//! Taken out of traffic, put back, ended.

use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::body::expect_json;
use super::{Shared, json_response};
use crate::auth::Caller;
use crate::data_plane::DataPlane;
use crate::phase::Phase;
use crate::problem::Problem;

/// `POST /v1/drain`
pub(super) async fn drain<P: DataPlane>(
    state: Shared<P>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set(state, &caller, &headers, true)
}

/// `POST /v1/undrain`
pub(super) async fn undrain<P: DataPlane>(
    state: Shared<P>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set(state, &caller, &headers, false)
}

fn set<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: &Caller,
    headers: &HeaderMap,
    aside: bool,
) -> Result<Response, Problem> {
    expect_json(headers)?;
    let (from, to) = match aside {
        true => (Phase::Ready, Phase::Aside),
        false => (Phase::Aside, Phase::Ready),
    };
    let now = *state.phase.borrow();
    if now != from && now != to {
        let detail = "the process is on its way up or down, and that cannot be changed";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, now.name(), detail));
    }
    state.set_phase.send_if_modified(|phase| {
        let is_change = *phase == from;
        if is_change {
            *phase = to;
        }
        is_change
    });
    state.plane.set_aside(aside);
    let what = if aside { "drain" } else { "undrain" };
    state.desired.say(format_args!("audit: {what}{}", caller.by()));
    Ok(json_response(&json!({ "phase": to.name() })))
}

/// `POST /v1/quit`
pub(super) async fn quit<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    state.desired.say(format_args!("audit: quit{}", caller.by()));
    state.plane.quit();
    Ok(json_response(&json!({ "phase": Phase::Draining.name() })))
}
