//! A node from its start to its stop, in one linear function.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, watch};

use crate::base::clock::{wall_ms, wall_seconds};
use crate::base::contained::is_contained;
use crate::base::error::{Fault, Kind, Result};
use crate::base::id::NodeId;
use crate::cluster::consensus::{Group, GroupOptions, ProposeError, Storage, Tuning};
use crate::cluster::replication::service::Silos;
use crate::cluster::replication::sessions;
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Announcement, Command, Genesis, Invitation, Join, NewMember, Outcome};
use crate::cluster::state::level::Level;
use crate::cluster::state::member;
use crate::daemon::addresses;
use crate::daemon::attachments::{Attachments, GROUP_LIMIT};
use crate::daemon::caretaker;
use crate::daemon::control::{Control, ControlServer};
use crate::daemon::data_runtime::DataRuntime;
use crate::daemon::directory::Directory;
use crate::daemon::home::{Home, KnownNode, NetworkFile, NodeFile};
use crate::daemon::membership::{JOIN_SERVICE, JoinAnswer, JoinRequest, LISTEN_DEFAULT, NEW_TOKEN};
use crate::daemon::mover;
use crate::daemon::offline::{RunOptions, SiloSpec};
use crate::daemon::peers::{self, Ask, Examined, GROUP_SERVICE, NODE_SERVICE, Peers, SignOfLife, Told};
use crate::daemon::regroup;
use crate::daemon::scrubs;
use crate::daemon::silos::{self, NodeSilos, SiloView, SiloViews};
use crate::daemon::standby;
use crate::daemon::standing::Standing;
use crate::daemon::twin;
use crate::transport::discovery::{Discovery, DiscoveryError, DiscoveryOptions, Seed};
use crate::transport::endpoint::{Dialer, Endpoint, EndpointError, EndpointOptions};
use crate::transport::network::{Channel, Network, Purpose};
use crate::transport::passport::{Passport, Role};
use crate::transport::rpc::{self, Handler};

/// Channels that others opened and that wait to be served.
const INCOMING_MAX: usize = 64;
/// How long volumes may take to be flushed at a graceful stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs a node until it is told to stop.
pub async fn run(home: Home, options: RunOptions) -> Result<()> {
    abort_on_panic();
    let network = home.network()?;
    let lock = home.lock()?;
    let key = home.node_key()?;
    let node = key.node();
    let passport = home.passport()?;
    passport.verify_holder(network.id, node, wall_seconds()).map_err(|error| {
        Fault::refused(format!("this node's passport is not valid: {error}")).hint("infinit network join TOKEN")
    })?;
    let mut settings = settings(&home, &passport, &options)?;
    let named = settings.listen.clone().unwrap_or_else(|| LISTEN_DEFAULT.into());
    let listen = addresses::listening(&named).await?;
    if let Some(advertise) = &options.advertise {
        addresses::check_advertised(advertise).await?;
    }

    let silos = NodeSilos::open(&settings.silos, network.id, node)?;
    let directory = Arc::new(Directory::new(network.contacts.clone()));
    let (incoming, channels) = mpsc::channel(INCOMING_MAX);
    let endpoint = EndpointOptions {
        key: home.node_key()?,
        passport: passport.clone(),
        listen,
        admission: directory.clone(),
        incoming: incoming.clone(),
    };
    let data_runtime = DataRuntime::start().map_err(|error| Fault::failed(format!("cannot start threads: {error}")))?;
    let data = data_runtime.handle();
    let bound = data.spawn(Endpoint::bind(endpoint)).await.map_err(|error| Fault::failed(error.to_string()))?;
    let endpoint = Arc::new(bound.map_err(endpoint_fault)?);
    settings.listen = Some(named.with_port(endpoint.address().port()));
    let data_addresses = addresses::advertised(endpoint.address(), settings.advertise.as_ref());
    let discovery = start_discovery(&home, &network, &settings, listen.ip(), options.mdns).await?;
    let discovery = Arc::new(discovery);
    settings.discovery = Some(SocketAddr::new(listen.ip(), discovery.address().port()));
    home.save_node_file(&settings)?;
    directory.set_discovery(&discovery);

    let dialer: Arc<dyn Network> = endpoint.clone();
    let peers = Peers::new(node, dialer.clone());
    let own = if settings.advertise.is_none() { &data_addresses[..] } else { &[] };
    twin::refuse(&home, &network, node, peers.run(), own).await?;
    discovery.announce(data_addresses.clone()).await.map_err(discovery_fault)?;
    let group = Group::start(GroupOptions {
        node,
        storage: Storage::File(home.file("cluster.redb")),
        rpc: Arc::new(peers.clone()),
        peers: network.contacts.iter().map(|known| known.node).collect(),
        tuning: Tuning::default(),
    })
    .await?;
    directory.set_state(group.state());
    let attachments = Attachments::new(
        node,
        home.clone(),
        group.clone(),
        peers.clone(),
        silos.registry().clone(),
        dialer.clone(),
        data.clone(),
    );
    let services = Services {
        node,
        network: network.id,
        group: group.clone(),
        attachments: attachments.clone(),
        peers: peers.clone(),
        dialer: endpoint.dialer().clone(),
        silos: silos.views(),
    };
    let serving = tokio::spawn(serve_channels(channels, services.clone(), silos.registry().clone()));

    let this = NewMember {
        name: addresses::host_name(),
        role: if settings.witness { member::Role::Witness } else { member_role(passport.role()) },
        passport: passport.encode().map_err(|error| Fault::failed(error.to_string()))?,
        data_addresses: data_addresses.clone(),
        discovery_addresses: discovery.listen_addresses().await.iter().map(ToString::to_string).collect(),
        zone: settings.zone.clone(),
    };
    if network.founder {
        found(&group, &network, node, this.clone()).await?;
    }
    let mut background = vec![
        tokio::spawn(announce(group.clone(), node, this)),
        tokio::spawn(peers.clone().listen(group.state())),
        tokio::spawn(silos::forget_deleted(silos.views(), group.state())),
        tokio::spawn(mover::move_attached(attachments.clone(), group.state())),
        tokio::spawn(mover::move_detached(attachments.clone(), node, group.clone())),
        tokio::spawn(caretaker::take_care(node, group.clone(), peers.clone(), silos.views())),
        tokio::spawn(standby::where_needed(
            endpoint.dialer().clone(),
            peers.clone(),
            network.contacts.iter().map(|known| known.node).collect(),
            group.state(),
            incoming,
        )),
        tokio::spawn(remember_members(home.clone(), group.state(), discovery.clone())),
    ];
    let open = silos.views();
    let may_store = passport.role().may_store();
    background
        .extend(open.iter().map(|view| tokio::spawn(silos::announce(view.clone(), node, may_store, group.clone()))));
    background.extend(open.iter().map(|view| tokio::spawn(view.vitals.clone().watch())));
    attachments.resume_all().await;

    let (stop, mut stopped) = watch::channel(None);
    let control =
        Control::new(home.clone(), node, group.clone(), peers.clone(), attachments.clone(), silos.views(), stop);
    let server = ControlServer::start(&home, control).await?;
    tracing::info!("node {} of network '{}' listens on {}", node.short(), network.name, endpoint.address());

    let ending = wait_for_end(&mut stopped, group.superseded()).await?;
    tracing::info!("stopping");
    match ending {
        Ending::Detach => attachments.detach_all(STOP_LIMIT).await,
        Ending::KeepAttached | Ending::Superseded => attachments.leave_attached(STOP_LIMIT).await,
    }
    peers.say_goodbye().await;
    for task in background {
        task.abort();
        // It ends by the abort; what it did before was said then.
        let _ = task.await;
    }
    group.hand_over().await;
    server.stop().await;
    group.shutdown().await;
    if let Some(discovery) = Arc::into_inner(discovery) {
        discovery.stop().await;
    }
    serving.abort();
    endpoint.close();
    silos.stop();
    drop(data_runtime);
    drop(lock);
    match ending {
        Ending::Superseded => Err(regroup::superseded(&network.name)),
        Ending::Detach | Ending::KeepAttached => Ok(()),
    }
}

/// A broken invariant in any task stops the whole process: half a daemon is worse than none, and a restart is safe.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !is_contained() {
            std::process::abort();
        }
    }));
}

/// What was said now over what was said last time.
fn settings(home: &Home, passport: &Passport, options: &RunOptions) -> Result<NodeFile> {
    let mut settings = home.node_file()?;
    if let Some(listen) = &options.listen {
        // Port 0 means any, and the one that was picked before is as good as another.
        let kept = settings.listen.filter(|old| listen.port() == 0 && old.with_port(0) == *listen);
        settings.listen = Some(kept.unwrap_or_else(|| listen.clone()));
    }
    settings.advertise = options.advertise.clone().or(settings.advertise);
    settings.zone = options.zone.clone().or(settings.zone).filter(|zone| !zone.is_empty());
    settings.witness = options.witness.unwrap_or(settings.witness);
    if settings.witness && !options.silos.is_empty() {
        return Err(Fault::usage("a witness stores nothing").hint("leave --silo out, or say --role storage"));
    }
    if settings.witness && !passport.role().may_store() {
        return Err(Fault::refused("this node joined as a client, and cannot be a witness")
            .hint("join with an invitation for storage: infinit network invite"));
    }
    if !options.silos.is_empty() {
        settings.silos.clone_from(&options.silos);
    }
    if settings.witness {
        settings.silos.clear();
    } else if !passport.role().may_store() {
        if !options.silos.is_empty() {
            return Err(Fault::refused("this node joined as a client and stores nothing")
                .hint("leave --silo out, or join with an invitation for storage"));
        }
        settings.silos.clear();
    } else if settings.silos.is_empty() {
        settings.silos.push(SiloSpec { path: home.root.join("silo"), capacity: None });
    }
    Ok(settings)
}

async fn start_discovery(
    home: &Home,
    network: &NetworkFile,
    settings: &NodeFile,
    ip: IpAddr,
    mdns: bool,
) -> Result<Discovery> {
    let seed = |known: &KnownNode| Seed { node: known.node, data: known.addresses.clone(), discovery: Vec::new() };
    let start = async |port: u16| {
        let options = DiscoveryOptions {
            key: home.node_key()?,
            network: network.id,
            listen: SocketAddr::new(ip, port),
            advertise: Vec::new(),
            peers_file: home.file("peers.redb"),
            seeds: network.contacts.iter().map(seed).collect(),
            mdns,
        };
        Ok::<_, Fault>(Discovery::start(options).await)
    };
    // Only the port is kept: where it is free on addresses that this machine has now is for the kernel to say.
    let kept = settings.discovery.map_or(0, |address| address.port());
    match start(kept).await? {
        Err(DiscoveryError::Listen { why, .. }) if kept != 0 => {
            tracing::warn!("discovery cannot have its port {kept} again ({why}): it picks another");
            start(0).await?.map_err(discovery_fault)
        }
        started => started.map_err(discovery_fault),
    }
}

fn discovery_fault(error: DiscoveryError) -> Fault {
    Fault::failed(format!("discovery does not run: {error}")).hint("infinit node run --listen IP:PORT")
}

fn endpoint_fault(error: EndpointError) -> Fault {
    match &error {
        EndpointError::InUse(address) => Fault::conflict(error.to_string())
            .hint(format!("choose another: infinit node run --listen {}:0", address.ip())),
        EndpointError::Listen { .. } => Fault::failed(error.to_string()).hint("infinit node run --listen IP:PORT"),
        EndpointError::Passport(_) => Fault::refused(error.to_string()).hint("infinit network join TOKEN"),
        EndpointError::Tls(_) => Fault::failed(error.to_string()),
    }
}

/// The network's first command, proposed by its founder at its first start.
async fn found(group: &Group, network: &NetworkFile, node: NodeId, member: NewMember) -> Result<()> {
    let genesis =
        Genesis { network: network.id, name: network.name.clone(), founder: node, member, at: network.created_at };
    match group.bootstrap(Command::Genesis(genesis)).await {
        // Without a quorum the network was founded long ago, and the others will come.
        Ok(_) | Err(ProposeError::NoQuorum | ProposeError::TimedOut) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Tells the cluster where this node is reached now, until it knows.
async fn announce(group: Group, node: NodeId, this: NewMember) {
    let command = Command::Announce(Announcement {
        node,
        name: this.name,
        data_addresses: this.data_addresses,
        discovery_addresses: this.discovery_addresses,
        zone: this.zone,
    });
    let mut state = group.state();
    let known = loop {
        match group.propose(command.clone(), GROUP_LIMIT).await {
            Ok(_) => break state.borrow().clone(),
            Err(ProposeError::Stopped) => return,
            Err(error) => {
                tracing::debug!("cannot announce this node yet: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    if known.members.get(&node).is_some_and(|member| member.role == this.role) {
        return;
    }
    if state.wait_for(|state| state.level >= Level(1)).await.is_err() {
        return;
    }
    let command = Command::SetRole { node, role: this.role };
    loop {
        match group.propose(command.clone(), GROUP_LIMIT).await {
            Ok(_) | Err(ProposeError::Stopped) => return,
            Err(ProposeError::Refused(why)) => {
                // Its copies lie on silos that it has not opened, and go elsewhere in time.
                tracing::error!("this node does not become a {} yet: {why}", this.role);
                if state.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!("cannot say yet what this node is: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Keeps the members' addresses in the home and in discovery, so that a restart needs nobody in particular.
async fn remember_members(home: Home, mut state: watch::Receiver<Arc<ClusterState>>, discovery: Arc<Discovery>) {
    loop {
        let now = state.borrow_and_update().clone();
        let contacts: Vec<KnownNode> = now
            .members
            .iter()
            .map(|(node, member)| KnownNode { node: *node, addresses: member.data_addresses.clone() })
            .collect();
        for (node, member) in &now.members {
            let at = member.discovery_addresses.iter().filter_map(|address| address.parse().ok()).collect();
            let seed = Seed { node: *node, data: member.data_addresses.clone(), discovery: at };
            if discovery.seed(seed).await.is_err() {
                return;
            }
        }
        if let Ok(mut file) = home.network()
            && !contacts.is_empty()
            && file.contacts != contacts
        {
            file.contacts = contacts;
            if let Err(fault) = home.save_network_file(&file) {
                tracing::warn!("{fault}");
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its volumes are detached.
    Detach,
    /// They stay attached: it will be back soon.
    KeepAttached,
    /// The network was recovered without this node.
    Superseded,
}

/// Returns when a signal or the control API says that it is over, or when the network was recovered without this node.
async fn wait_for_end(
    stopped: &mut watch::Receiver<Option<Ending>>,
    mut superseded: watch::Receiver<bool>,
) -> Result<Ending> {
    use tokio::signal::unix::{SignalKind, signal};
    let fault = |error: std::io::Error| Fault::failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    Ok(tokio::select! {
        _ = terminate.recv() => Ending::Detach,
        _ = interrupt.recv() => Ending::Detach,
        asked = stopped.wait_for(Option::is_some) => asked.ok().and_then(|asked| *asked).unwrap_or(Ending::Detach),
        Ok(_) = superseded.wait_for(|is| *is) => Ending::Superseded,
    })
}

fn member_role(role: Role) -> member::Role {
    match role {
        Role::Storage => member::Role::Storage,
        Role::Client => member::Role::Client,
        Role::Admin => member::Role::Admin,
    }
}

/// Serves the channels that others open.
async fn serve_channels(mut channels: mpsc::Receiver<Channel>, services: Services, silos: Silos) {
    while let Some(channel) = channels.recv().await {
        match channel.purpose {
            Purpose::Data => {
                let home = channel.home.clone();
                home.spawn(sessions::serve(channel, silos.clone()));
            }
            Purpose::Control => {
                tokio::spawn(rpc::serve(channel, Arc::new(services.clone())));
            }
            Purpose::Join => {
                tokio::spawn(rpc::serve(channel, Arc::new(Joining(services.clone()))));
            }
            // The endpoint keeps these to itself.
            Purpose::Calls => {}
        }
    }
}

/// What this daemon does for the others.
#[derive(Clone)]
struct Services {
    node: NodeId,
    network: crate::base::id::NetworkId,
    group: Group,
    attachments: Attachments,
    peers: Peers,
    dialer: Dialer,
    silos: SiloViews,
}

/// What it does for a node that is no member yet.
struct Joining(Services);

impl Handler for Services {
    fn handle(&self, from: NodeId, service: u8, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let this = self.clone();
        async move {
            match service {
                GROUP_SERVICE => Ok(this.group.serve(from, request).await),
                NODE_SERVICE => {
                    let ask = postcard::from_bytes(&request).map_err(|_| "that is no question".to_owned())?;
                    let told = this.tell(from, ask).await;
                    postcard::to_stdvec(&told).map(Bytes::from).map_err(|error| error.to_string())
                }
                other => Err(format!("there is no service {other}")),
            }
        }
        .boxed()
    }
}

impl Services {
    async fn tell(&self, from: NodeId, ask: Ask) -> Told {
        match ask {
            Ask::Ping => Told::Alive(SignOfLife {
                run: self.peers.run(),
                version: peers::own_version(),
                silos: self.silos.lives(),
                details: self.silos.iter().map(SiloView::details).collect(),
                unheard: matches!(self.peers.standing(from), Standing::Down { .. }),
            }),
            Ask::Report(volume) => Told::Report(self.attachments.report(volume).await),
            Ask::HandOver { volume, epoch } => Told::Done(self.attachments.hand_over(volume, epoch).await),
            Ask::Detach { volume, limit_ms } => {
                let limit = Duration::from_millis(limit_ms);
                Told::Done(self.attachments.detach(volume, limit).await.map(|_| ()))
            }
            Ask::Scrub { volume, silos, begin } => Told::Scrub(scrubs::tell(&self.silos, volume, &silos, begin)),
            Ask::Goodbye { run } => {
                self.peers.goodbye_of(from, run);
                Told::Done(Ok(()))
            }
            Ask::Examine => Told::Examined(Examined {
                wall_ms: wall_ms(),
                hears_you: matches!(self.peers.standing(from), Standing::Up { .. }),
                calls_you: self.dialer.calls(from),
            }),
            Ask::Quorum => {
                let status = self.group.status();
                Told::Quorum { has_quorum: status.has_quorum, generation: status.generation }
            }
            Ask::Whereabouts(node) => {
                let state = self.group.state().borrow().clone();
                Told::Whereabouts(
                    state.members.get(&node).map_or_else(Vec::new, |member| member.data_addresses.clone()),
                )
            }
            Ask::Leave => {
                let leave = Command::Leave { node: from, at: wall_seconds() };
                Told::Done(self.group.propose(leave, GROUP_LIMIT).await.map(|_| ()).map_err(Fault::from))
            }
        }
    }

    /// Lets a node in whose invitation is good and not used up; the cluster group decides.
    async fn let_in(&self, from: NodeId, request: &[u8]) -> Result<JoinAnswer> {
        let request: JoinRequest =
            postcard::from_bytes(request).map_err(|_| Fault::refused("that is no request to join"))?;
        let refused = |error: crate::transport::passport::PassportError| {
            Fault::refused(format!("the token is refused: {error}")).hint(NEW_TOKEN)
        };
        let passport = Passport::decode(&request.passport).map_err(refused)?;
        let now = wall_seconds();
        passport.verify_joining(self.network, from, now).map_err(refused)?;
        let Some(invitation) = passport.invitation() else {
            return Err(Fault::refused("the passport has no invitation").hint(NEW_TOKEN));
        };
        let terms = &invitation.terms;
        let join = Join {
            node: from,
            member: NewMember {
                name: request.name.chars().filter(|c| !c.is_control()).take(64).collect(),
                role: member_role(passport.role()),
                passport: request.passport.clone(),
                data_addresses: Vec::new(),
                discovery_addresses: Vec::new(),
                zone: None,
            },
            invitation: Invitation { id: terms.id, uses_max: terms.uses, expires_at: terms.expires_at },
            at: now,
        };
        let Outcome::Joined { passport } = self.group.propose(Command::Join(join), Duration::from_secs(10)).await?
        else {
            return Err(Fault::failed("the cluster answered a join with something else"));
        };
        let state = self.group.state().borrow().clone();
        let members = state
            .members
            .iter()
            .filter(|(_, member)| !member.data_addresses.is_empty())
            .map(|(node, member)| KnownNode { node: *node, addresses: member.data_addresses.clone() })
            .collect();
        let created_at = state.network.as_ref().map_or(now, |network| network.created_at);
        tracing::info!("{} ({}) joined, let in by {}", request.name, from.short(), self.node.short());
        Ok(JoinAnswer::Joined { passport, created_at, members })
    }
}

impl Handler for Joining {
    fn handle(&self, from: NodeId, service: u8, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let services = self.0.clone();
        async move {
            if service != JOIN_SERVICE {
                return Err("a node that is no member may only ask to join".to_owned());
            }
            let answer = services.let_in(from, &request).await.unwrap_or_else(|mut fault| {
                // What the cluster group refuses is the invitation.
                if fault.kind == Kind::Conflict {
                    fault.kind = Kind::Refused;
                }
                JoinAnswer::Refused(fault)
            });
            postcard::to_stdvec(&answer).map(Bytes::from).map_err(|error| error.to_string())
        }
        .boxed()
    }
}
