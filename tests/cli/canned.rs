//! A daemon of canned answers: the routes of the control API on a Unix socket, served by axum. What it is asked is
//! kept, so that tests see what the client sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use infinit::base::error::{Fault, Kind};
use infinit::daemon::api;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

use crate::cli::{Home, answers};

/// A running daemon of canned answers; it stops when dropped.
pub struct Canned {
    pub home: Home,
    requests: Requests,
    _runtime: Runtime,
}

/// What was asked: `METHOD /path body`.
type Requests = Arc<Mutex<Vec<String>>>;

impl Canned {
    pub fn start() -> Self {
        Self::with_status(answers::status())
    }

    pub fn with_status(status: api::Status) -> Self {
        let home = Home::new();
        let requests = Requests::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = router(status, requests.clone());
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(home.socket()).unwrap()
        };
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { home, requests, _runtime: runtime }
    }

    /// What the last call asked for.
    pub fn last_request(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn router(status: api::Status, requests: Requests) -> Router {
    let asked = Arc::new(AtomicUsize::new(0));
    let scrub =
        async move |Path(name): Path<String>| Json(answers::scrub(asked.fetch_add(1, Ordering::Relaxed), &name));
    let keep = axum::middleware::from_fn_with_state(requests, keep_request);
    Router::new()
        .route("/v1/status", get(move || answer(status.clone())))
        .route("/v1/network", get(|| answer(answers::network())))
        .route("/v1/network/invitations", post(invite))
        .route("/v1/network/leave", post(|| answer(api::Left { id: answers::network().id, name: "prod".into() })))
        .route("/v1/nodes", get(|| answer(answers::nodes())))
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/node/ready", get(ready))
        .route("/v1/node/stop", post(|| answer(api::going::Stopping { node: answers::network().node })))
        .route("/v1/volumes", get(|| answer(answers::volumes())).post(create))
        .route("/v1/volumes/{name}", get(volume).delete(delete))
        .route("/v1/volumes/{name}/attach", post(attach))
        .route("/v1/volumes/{name}/detach", post(detach))
        .route("/v1/volumes/{name}/scrub", get(scrub.clone()).post(scrub))
        .fallback(any(|| async { refuse(Fault::not_found("no such route")) }))
        .layer(keep)
}

async fn keep_request(
    State(requests): State<Requests>,
    method: Method,
    uri: Uri,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    requests.lock().unwrap().push(format!("{method} {uri} {}", String::from_utf8_lossy(&bytes)));
    next.run(axum::extract::Request::from_parts(parts, bytes.into())).await
}

async fn answer<T: Serialize>(value: T) -> Json<T> {
    Json(value)
}

fn refuse(fault: Fault) -> Response {
    (StatusCode::from_u16(api::http_status(fault.kind)).unwrap(), Json(fault)).into_response()
}

fn no_volume(name: &str) -> Response {
    refuse(Fault::not_found(format!("there is no volume {name}")).hint("infinit volume list"))
}

async fn invite(Json(request): Json<api::Invite>) -> Json<api::Invitation> {
    Json(answers::invitation(request.role, request.uses))
}

/// Ready at once, unless the wait is so short that the test wants to see it fail.
async fn ready(uri: Uri) -> Response {
    let timeout_ms: u64 = uri.query().unwrap().strip_prefix("timeout_ms=").unwrap().parse().unwrap();
    if timeout_ms < 1000 {
        return refuse(Fault::timed_out("no quorum: 1 of 3 voters answers").hint("start host-b or host-c"));
    }
    let network = answers::network();
    Json(api::Ready { node: network.node, network: network.name, nodes_up: 2, nodes_unknown: 0, nodes: 3 })
        .into_response()
}

async fn node(Path(name): Path<String>) -> Response {
    let found = answers::nodes().into_iter().find(|node| node.name == name || (name == "self" && node.this));
    match found {
        Some(node) => Json(node).into_response(),
        None => refuse(Fault::not_found(format!("there is no node {name}")).hint("infinit node list")),
    }
}

async fn create(Json(request): Json<api::CreateVolume>) -> Response {
    if answers::volumes().iter().any(|volume| volume.name == request.name) {
        let fault = Fault::conflict(format!("there is a volume {} already", request.name));
        return refuse(fault.hint("choose another name"));
    }
    if request.replicas > 3 {
        let fault = Fault::usage(format!("{} replicas need as many silos, and there are 3", request.replicas));
        return refuse(fault.hint("add nodes, or accept a single copy with --replicas 1"));
    }
    let volume = api::Volume {
        name: request.name,
        size_bytes: request.size_bytes,
        replicas: request.replicas,
        durability: request.durability,
        lease_ms: request.lease_ms,
        io_timeout_ms: request.io_timeout_ms,
        ..answers::volumes().remove(2)
    };
    Json(volume).into_response()
}

async fn volume(Path(name): Path<String>) -> Response {
    match answers::volumes().into_iter().find(|volume| volume.name == name) {
        Some(volume) => Json(answers::volume_status(volume)).into_response(),
        None => no_volume(&name),
    }
}

async fn delete(Path(name): Path<String>) -> Response {
    match answers::volumes().into_iter().find(|volume| volume.name == name) {
        Some(volume) if volume.attachment.is_some() => refuse(
            Fault::conflict(format!("volume {name} is attached to host-a"))
                .hint(format!("infinit volume detach {name}")),
        ),
        Some(volume) => Json(api::DeletedVolume { id: volume.id, name }).into_response(),
        None => no_volume(&name),
    }
}

/// Some names ask for an answer that a real daemon gives rarely.
async fn attach(Path(name): Path<String>, body: Bytes) -> Response {
    let request: api::AttachVolume = serde_json::from_slice(&body).unwrap();
    let fault = match name.as_str() {
        "logs" if !request.takeover => Fault::conflict("volume logs is attached to host-b since 2026-11-22T10:00:00Z")
            .hint("take it over: infinit volume attach logs --takeover"),
        "fenced" => Fault::refused("volume fenced was taken over by host-b"),
        "no-quorum" => Fault::new(Kind::Unreachable, "the cluster has no quorum: host-b and host-c are down"),
        "slow" => Fault::timed_out("no majority of slot 0 answered within 30s"),
        "failing" => Fault::failed("the silo /data failed: Input/output error"),
        "no-json" => return (StatusCode::INTERNAL_SERVER_ERROR, "oops").into_response(),
        "garbled" => return "{\"node\": 3}".into_response(),
        "closed" => return Json(api::Attachment { nbd_uri: None, ..answers::attachment() }).into_response(),
        _ => return Json(answers::attachment()).into_response(),
    };
    refuse(fault)
}

async fn detach(Path(name): Path<String>) -> Response {
    match answers::volumes().into_iter().find(|volume| volume.name == name) {
        Some(volume) => {
            let was_attached = volume.attachment.is_some();
            let volume = api::Volume { attachment: None, state: api::VolumeState::Detached, ..volume };
            Json(api::DetachedVolume { volume, was_attached }).into_response()
        }
        None => no_volume(&name),
    }
}
