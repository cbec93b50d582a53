//! The control API: HTTP and JSON on a Unix socket in the home.

mod members;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::base::clock::{rfc3339, wall_seconds};
use crate::base::error::{Fault, Result};
use crate::base::id::{NodeId, VolumeId};
use crate::cluster::consensus::Group;
use crate::cluster::state::command::{Command, Outcome, VolumeCreation};
use crate::cluster::state::volume::{self, OnNoQuorum, Policy};
use crate::daemon::api::{self, http_status};
use crate::daemon::attachments::{Attachments, DETACH_LIMIT, GROUP_LIMIT, find};
use crate::daemon::doctor;
use crate::daemon::home::Home;
use crate::daemon::membership;
use crate::daemon::node::Ending;
use crate::daemon::peers::Peers;
use crate::daemon::scrubs::Scrubs;
use crate::daemon::silos::SiloViews;
use crate::daemon::status::Observer;

/// How long requests in flight may take when the daemon stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What the control API acts on. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    home: Home,
    node: NodeId,
    group: Group,
    attachments: Attachments,
    peers: Peers,
    observer: Observer,
    scrubs: Scrubs,
    stop: watch::Sender<Option<Ending>>,
}

/// The running API.
pub struct ControlServer {
    path: PathBuf,
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Control {
    pub fn new(
        home: Home,
        node: NodeId,
        group: Group,
        peers: Peers,
        attachments: Attachments,
        silos: SiloViews,
        stop: watch::Sender<Option<Ending>>,
    ) -> Control {
        let scrubs = Scrubs::new(node, group.clone(), peers.clone(), silos.clone());
        let observer = Observer::new(home.clone(), node, group.clone(), peers.clone(), attachments.clone(), silos);
        Control { home, node, group, attachments, peers, observer, scrubs, stop }
    }
}

impl ControlServer {
    /// Listens on the home's socket, for its owner alone. A socket that a dead daemon left behind is replaced: the
    /// home's lock says that it is dead.
    pub async fn start(home: &Home, control: Control) -> Result<ControlServer> {
        let path = home.control_socket();
        if path.as_os_str().len() > api::SOCKET_PATH_BYTES_MAX {
            return Err(Fault::usage(format!("the path {} is too long for a socket", path.display()))
                .hint("choose a shorter --home"));
        }
        let fault = |error: std::io::Error| Fault::io("listen on", &path, &error);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(fault)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
        let (stop, mut stopped) = watch::channel(false);
        let app = routes(control);
        let task = tokio::spawn(async move {
            let end = async move {
                // An error means that the server was dropped: then it ends too.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(end).await {
                tracing::error!("the control API ended: {error}");
            }
        });
        Ok(ControlServer { path, task, stop })
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        let mut task = self.task;
        if timeout(STOP_LIMIT, &mut task).await.is_err() {
            task.abort();
        }
        // The next start removes it otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn routes(control: Control) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/doctor", get(examine))
        .route("/v1/network", get(network).patch(members::set_network))
        .route("/v1/network/invitations", post(invite))
        .route("/v1/network/leave", post(leave))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/nodes/{node}/drain", post(members::drain))
        .route("/v1/nodes/{node}/remove", post(members::remove))
        .route("/v1/node/ready", get(ready))
        .route("/v1/node/stop", post(stop))
        .route("/v1/volumes", get(volumes).post(create))
        .route("/v1/volumes/{name}", get(volume_status).patch(members::set_volume).delete(delete))
        .route("/v1/volumes/{name}/attach", post(attach))
        .route("/v1/volumes/{name}/detach", post(detach))
        .route("/v1/volumes/{name}/recover", post(recover))
        .route("/v1/volumes/{name}/scrub", get(scrubbed).post(scrub))
        .fallback(async || Answer::<()>(Err(Fault::not_found("there is no such route").hint("man infinit"))))
        .with_state(control)
}

/// A result as JSON with its HTTP status.
struct Answer<T>(Result<T>);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let (code, body) = match self.0 {
            Ok(value) => (StatusCode::OK, serde_json::to_vec(&value)),
            Err(fault) => {
                let code = StatusCode::from_u16(http_status(fault.kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (code, serde_json::to_vec(&fault))
            }
        };
        match body {
            Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Fault::usage(format!("the request is not understood: {error}")))
}

async fn status(State(control): State<Control>) -> Answer<api::Status> {
    Answer(Ok(control.observer.status().await))
}

async fn examine(State(control): State<Control>) -> Answer<api::doctor::Checkup> {
    Answer(match control.observer.network() {
        Ok(network) => {
            let nodes = control.observer.nodes();
            Ok(doctor::examine(&control.home.root, &network, &nodes, &control.peers).await)
        }
        Err(fault) => Err(fault),
    })
}

async fn network(State(control): State<Control>) -> Answer<api::Network> {
    Answer(control.observer.network())
}

async fn nodes(State(control): State<Control>) -> Answer<Vec<api::Node>> {
    Answer(Ok(control.observer.nodes()))
}

async fn node(State(control): State<Control>, Path(name): Path<String>) -> Answer<api::Node> {
    Answer(control.observer.node(&name))
}

#[derive(Deserialize)]
struct ReadyQuery {
    timeout_ms: Option<u64>,
}

async fn ready(State(control): State<Control>, Query(query): Query<ReadyQuery>) -> Answer<api::Ready> {
    Answer(control.ready(query.timeout_ms.map_or(Duration::from_secs(30), Duration::from_millis)).await)
}

async fn stop(State(control): State<Control>, body: Bytes) -> Answer<api::going::Stopping> {
    Answer(parse(&body).map(|request: api::going::StopNode| {
        let ending = if request.keep_attached { Ending::KeepAttached } else { Ending::Detach };
        control.stop.send_replace(Some(ending));
        api::going::Stopping { node: control.observer.node_ref(control.node) }
    }))
}

async fn invite(State(control): State<Control>, body: Bytes) -> Answer<api::Invitation> {
    Answer(match parse(&body) {
        Ok(request) => control.invite(&request).await,
        Err(fault) => Err(fault),
    })
}

async fn leave(State(control): State<Control>) -> Answer<api::Left> {
    Answer(control.leave().await)
}

async fn volumes(State(control): State<Control>) -> Answer<Vec<api::Volume>> {
    Answer(Ok(control.observer.volumes().await))
}

async fn create(State(control): State<Control>, body: Bytes) -> Answer<api::Volume> {
    Answer(match parse(&body) {
        Ok(request) => control.create(request).await,
        Err(fault) => Err(fault),
    })
}

async fn volume_status(State(control): State<Control>, Path(name): Path<String>) -> Answer<api::VolumeStatus> {
    Answer(control.observer.volume(&name).await)
}

async fn delete(State(control): State<Control>, Path(name): Path<String>) -> Answer<api::DeletedVolume> {
    Answer(control.delete(&name).await)
}

async fn attach(State(control): State<Control>, Path(name): Path<String>, body: Bytes) -> Answer<api::Attachment> {
    Answer(match parse(&body) {
        Ok(request) => control.attach(&name, request).await,
        Err(fault) => Err(fault),
    })
}

async fn detach(State(control): State<Control>, Path(name): Path<String>, body: Bytes) -> Answer<api::DetachedVolume> {
    Answer(match parse(&body) {
        Ok(request) => control.detach(&name, request).await,
        Err(fault) => Err(fault),
    })
}

async fn recover(
    State(control): State<Control>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<api::recovery::RecoveredVolume> {
    Answer(match parse(&body) {
        Ok(request) => control.recover(&name, request).await,
        Err(fault) => Err(fault),
    })
}

async fn scrub(
    State(control): State<Control>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<api::scrub::VolumeScrub> {
    Answer(match parse::<api::scrub::ScrubVolume>(&body) {
        Ok(_) => control.scrubs.scrub(&name, true).await,
        Err(fault) => Err(fault),
    })
}

async fn scrubbed(State(control): State<Control>, Path(name): Path<String>) -> Answer<api::scrub::VolumeScrub> {
    Answer(control.scrubs.scrub(&name, false).await)
}

impl Control {
    /// Waits until this node is a member and the cluster has a quorum.
    async fn ready(&self, limit: Duration) -> Result<api::Ready> {
        let end = Instant::now() + limit;
        let mut state = self.group.state();
        let mut status = self.group.watch_status();
        loop {
            let joined = state.borrow_and_update().members.contains_key(&self.node);
            let quorum = status.borrow_and_update().has_quorum;
            let left = end.saturating_duration_since(Instant::now());
            if joined && quorum && self.group.current(left.min(GROUP_LIMIT)).await.is_ok() {
                return self.observer.ready(end.saturating_duration_since(Instant::now())).await;
            }
            let changed = async {
                tokio::select! {
                    _ = state.changed() => {}
                    _ = status.changed() => {}
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
            };
            if timeout(left, changed).await.is_err() {
                let why =
                    if joined { "the cluster has no quorum" } else { "this node is not yet known to the cluster" };
                return Err(Fault::timed_out(format!("not ready in time: {why}"))
                    .hint("are enough of the other nodes running? infinit node list"));
            }
        }
    }

    async fn invite(&self, request: &api::Invite) -> Result<api::Invitation> {
        let state = self.group.state().borrow().clone();
        let this = membership::own_contact(&self.home).await?;
        let members = state.members.iter().map(|(node, member)| (*node, member.data_addresses.clone()));
        membership::invite(&self.home, request, membership::contacts_of(this, members))
    }

    /// Leaves the network for good; the daemon ends.
    async fn leave(&self) -> Result<api::Left> {
        let network = self.observer.network()?;
        self.group.propose(Command::Leave { node: self.node, at: wall_seconds() }, GROUP_LIMIT).await?;
        self.stop.send_replace(Some(Ending::Detach));
        self.home.remove()?;
        Ok(api::Left { id: network.id, name: network.name })
    }

    async fn create(&self, request: api::CreateVolume) -> Result<api::Volume> {
        request.check()?;
        let policy = Policy {
            replicas: request.replicas,
            durability: match request.durability {
                api::Durability::Flush => volume::Durability::Flush,
                api::Durability::Write => volume::Durability::Write,
            },
            lease_ms: request.lease_ms as u32,
            on_no_quorum: match request.io_timeout_ms {
                None => OnNoQuorum::Suspend,
                Some(after_ms) => OnNoQuorum::Error { after_ms: after_ms as u32 },
            },
        };
        let id = VolumeId::random();
        let at = wall_seconds();
        let creation = VolumeCreation { id, name: request.name.clone(), size_bytes: request.size_bytes, policy, at };
        let Outcome::Created { volume } = self.group.propose(Command::CreateVolume(creation), GROUP_LIMIT).await?
        else {
            return Err(Fault::failed("the cluster answered a creation with something else"));
        };
        tracing::info!("volume '{}' ({}) is created", request.name, volume.short());
        self.observer.volume(&request.name).await.map(|status| status.volume)
    }

    async fn delete(&self, name: &str) -> Result<api::DeletedVolume> {
        let state = self.group.current(GROUP_LIMIT).await?;
        let (id, _) = find(&state, name)?;
        self.group.propose(Command::DeleteVolume { volume: id, at: wall_seconds() }, GROUP_LIMIT).await?;
        tracing::info!("volume '{name}' is deleted");
        Ok(api::DeletedVolume { id, name: name.to_owned() })
    }

    async fn attach(&self, name: &str, request: api::AttachVolume) -> Result<api::Attachment> {
        // The attach goes on if the client goes away: half of one would leave the volume to nobody.
        let (attachments, asked) = (self.attachments.clone(), name.to_owned());
        let attaching = tokio::spawn(async move { attachments.attach(&asked, &request).await });
        let attached = attaching.await.map_err(|error| Fault::failed(format!("the attach ended: {error}")))??;
        let state = self.group.state().borrow().clone();
        let since = state.volumes.get(&attached.volume).and_then(|v| v.attachment.as_ref()).map_or(0, |a| a.since);
        Ok(api::Attachment {
            node: self.observer.node_ref(self.node),
            epoch: attached.epoch,
            since: rfc3339(since),
            nbd_uri: Some(attached.uri.clone()),
        })
    }

    async fn recover(
        &self,
        name: &str,
        request: api::recovery::RecoverVolume,
    ) -> Result<api::recovery::RecoveredVolume> {
        // It goes on if the client goes away: half of one would leave the volume to nobody.
        let (attachments, asked) = (self.attachments.clone(), name.to_owned());
        let recovering = tokio::spawn(async move { attachments.recover_volume(&asked, &request).await });
        recovering.await.map_err(|error| Fault::failed(format!("the recovery ended: {error}")))?
    }

    async fn detach(&self, name: &str, request: api::DetachVolume) -> Result<api::DetachedVolume> {
        let limit = request.timeout_ms.map_or(DETACH_LIMIT, Duration::from_millis);
        let state = self.group.current(limit.min(GROUP_LIMIT)).await?;
        let (id, volume) = find(&state, name)?;
        let (attachments, label) = (self.attachments.clone(), name.to_owned());
        let here = tokio::spawn(async move { attachments.detach(id, limit).await });
        let here = here.await.map_err(|error| Fault::failed(format!("the detach ended: {error}")))??;
        if let (false, Some(attachment)) = (here, &volume.attachment) {
            if attachment.node == self.node {
                // Nothing serves it here: an export that stayed closed after a power loss, or was never resumed.
                let command = Command::Detach { volume: id, epoch: attachment.epoch };
                self.group.propose(command, GROUP_LIMIT).await?;
            } else {
                let node = state.node_label(attachment.node);
                self.attachments.detach_elsewhere(&node, attachment.node, id, limit).await?;
                // This node hears of it a moment later.
                self.group.current(GROUP_LIMIT).await?;
            }
        }
        let was_attached = here || volume.attachment.is_some();
        let volume = self.observer.volume(&label).await?.volume;
        Ok(api::DetachedVolume { volume, was_attached })
    }
}
