//! `infinit demo`: what the product is for, shown on one machine within a minute.
//!
//! Three nodes run as real processes ([`stage`]) and form a cluster by the commands that every user types. A volume
//! with three copies is attached at the first node, and data ([`content`]) is copied in over NBD ([`client`]) with many
//! writes in flight. In the middle one of the other nodes is killed with SIGKILL; the copy goes on, and the longest
//! time a write waits from then on, the node's return included, is the stall. The killed node is started again, gets
//! what it missed, and then takes the volume over: everything is read back through it, the node with the most to
//! lose, and compared.
//!
//! Nothing here has a way in that users lack: it is the command line's JSON and the NBD socket.

pub mod client;
mod content;
mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::base::error::{Fault, Result};
use crate::daemon::api::{Attachment, Invitation, Network, NodeState, Ready, SiloState, Status, Volume, VolumeState};
use crate::daemon::demo::client::Client;
use crate::daemon::demo::content::{Content, PIECE_BYTES, TOTAL_BYTES};
use crate::daemon::demo::stage::{NODES, Stage};
use crate::daemon::offline::{DemoEvent, DemoProof};

/// The volume's name, and its size in the form that people type.
const VOLUME: &str = "demo";
const VOLUME_SIZE: &str = "1GiB";
/// Writes in flight, as a busy file system has them.
const WRITES_IN_FLIGHT: usize = 32;
const READS_IN_FLIGHT: usize = 16;
/// A flush after so many pieces.
const FLUSH_EVERY: u64 = 128;
/// Which node the volume is attached to first, and which is killed and takes over later.
const FIRST: usize = 0;
const KILLED: usize = 1;
/// Beyond this the demonstration has failed: it takes well under a minute on a small machine.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the nodes are asked whether they are ready.
const ASK_EVERY: Duration = Duration::from_millis(100);
type Tell<'a> = &'a mut (dyn FnMut(DemoEvent) + Send);

/// Runs the demonstration and cleans up, whatever happens; with `keep`, a good end leaves the cluster running.
pub async fn run(keep: bool, tell: &mut (dyn FnMut(DemoEvent) + Send)) -> Result<DemoProof> {
    let mut stage = Stage::set()?;
    let played = tokio::select! {
        played = timeout(LIMIT, play(&mut stage, tell)) => {
            played.unwrap_or_else(|_| Err(Fault::timed_out("the demonstration takes too long")))
        }
        fault = interrupted() => return Err(fault),
    };
    let (mut proof, attachment) = played.map_err(|fault| stage.explain(fault))?;
    if keep {
        stage.leave();
        proof.kept = Some(stage.directory().to_owned());
        proof.next = next(&stage, &attachment);
    }
    Ok(proof)
}

async fn play(stage: &mut Stage, tell: Tell<'_>) -> Result<(DemoProof, Attachment)> {
    step(tell, "three nodes start on this machine and form a cluster");
    gather(stage).await?;
    step(tell, &format!("volume {VOLUME} is created, {VOLUME_SIZE} with three copies, and attached to node a"));
    stage.ask::<Volume>(FIRST, &["volume", "create", VOLUME, "--size", VOLUME_SIZE]).await?;
    let attachment: Attachment = stage.ask(FIRST, &["volume", "attach", VOLUME]).await?;
    let content = Content::of(stage.executable())?;
    step(tell, "data is copied in over NBD");
    let copied = copy(stage, tell, &content).await?;
    step(tell, "node b gets what it missed");
    until_healthy(stage).await?;
    step(tell, &format!("node b takes the volume over from epoch {}, and everything is read back", attachment.epoch));
    let attachment: Attachment = stage.ask(KILLED, &["volume", "attach", VOLUME, "--takeover"]).await?;
    let verified = verify(stage, &content).await?;
    let proof = DemoProof {
        bytes_written: copied.answered * PIECE_BYTES as u64,
        writes_answered: copied.answered,
        writes_verified: verified,
        writes_lost: copied.answered - verified,
        stall_ms: copied.stall.as_millis() as u64,
        kept: None,
        next: Vec::new(),
    };
    Ok((proof, attachment))
}

/// Three nodes that know one another, with a silo each and a vote each.
async fn gather(stage: &mut Stage) -> Result<()> {
    let options = ["--listen", "127.0.0.1:0", "--no-mdns"];
    stage.ask::<Network>(FIRST, &["network", "create", "demo"]).await?;
    stage.start(FIRST, &options)?;
    ready(stage, FIRST).await?;
    let invitation: Invitation = stage.ask(FIRST, &["network", "invite", "--uses", "2"]).await?;
    for node in 1..NODES.len() {
        stage.ask::<Network>(node, &["network", "join", &invitation.token]).await?;
        stage.start(node, &options)?;
    }
    for node in 1..NODES.len() {
        ready(stage, node).await?;
    }
    loop {
        let status: Status = stage.ask(FIRST, &["status"]).await?;
        let voters = status.network.cluster.map_or(0, |cluster| cluster.voters.len());
        let up = status
            .nodes
            .iter()
            .filter(|node| node.state == NodeState::Up && node.silos.iter().any(|silo| silo.state == SiloState::Up));
        if up.count() == NODES.len() && voters == NODES.len() {
            return Ok(());
        }
        alive(stage)?;
        sleep(ASK_EVERY).await;
    }
}

async fn ready(stage: &mut Stage, node: usize) -> Result<()> {
    let ready = stage.ask::<Ready>(node, &["node", "wait", "--timeout", "30s"]).await.map(drop);
    alive(stage)?;
    ready
}

/// A node that ended by itself ends the demonstration.
fn alive(stage: &mut Stage) -> Result<()> {
    match (0..NODES.len()).find_map(|node| stage.ended(node).map(|status| (node, status))) {
        Some((node, status)) => Err(Fault::failed(format!("node {} ended by itself: {status}", NODES[node]))),
        None => Ok(()),
    }
}

/// What the copy came to.
struct Copied {
    answered: u64,
    stall: Duration,
}

/// Writes every piece; kills a node at the middle and starts it again at three quarters.
async fn copy(stage: &mut Stage, tell: Tell<'_>, content: &Content) -> Result<Copied> {
    let client = connect(stage, FIRST).await?;
    let pieces = content.pieces();
    let write = |piece: u64| {
        let (client, data, offset) = (client.clone(), content.piece(piece), content.offset(piece));
        async move {
            let begun = Instant::now();
            client.write(offset, data, false).await?;
            let ended = Instant::now();
            if piece % FLUSH_EVERY == FLUSH_EVERY - 1 {
                client.flush().await?;
            }
            Ok::<_, Fault>((begun, ended))
        }
    };
    let mut writes = std::pin::pin!(stream::iter(0..pieces).map(write).buffer_unordered(WRITES_IN_FLIGHT));
    let mut copied = Copied { answered: 0, stall: Duration::ZERO };
    let (mut killed, mut back) = (None, false);
    while let Some(written) = writes.next().await {
        let (begun, ended) = written?;
        copied.answered += 1;
        tell(DemoEvent::Copied { bytes: copied.answered * PIECE_BYTES as u64, total_bytes: TOTAL_BYTES });
        if copied.answered == pieces / 2 {
            killed = Some(stage.kill(KILLED)?);
            step(tell, "node b is killed with SIGKILL");
        }
        if killed.is_some_and(|at| ended > at) {
            copied.stall = copied.stall.max(ended - begun);
        }
        // It must be gone before another may have its home.
        if copied.answered >= pieces * 3 / 4 && !back && stage.ended(KILLED).is_some() {
            step(tell, "node b is started again");
            stage.start(KILLED, &[])?;
            back = true;
        }
    }
    client.flush().await?;
    if !back {
        return Err(Fault::failed("node b did not die of SIGKILL"));
    }
    Ok(copied)
}

/// Waits until every copy is up to date again.
async fn until_healthy(stage: &mut Stage) -> Result<()> {
    ready(stage, KILLED).await?;
    loop {
        let status: Status = stage.ask(FIRST, &["status"]).await?;
        if status.volumes.iter().all(|volume| volume.state == VolumeState::Healthy) {
            return Ok(());
        }
        alive(stage)?;
        sleep(ASK_EVERY).await;
    }
}

/// Reads every piece through the other node; returns how many are as they were written.
async fn verify(stage: &Stage, content: &Content) -> Result<u64> {
    let client = connect(stage, KILLED).await?;
    let read = |piece: u64| {
        let (client, offset) = (client.clone(), content.offset(piece));
        async move { Ok::<_, Fault>((piece, client.read(offset, PIECE_BYTES as u32).await?)) }
    };
    let mut reads = std::pin::pin!(stream::iter(0..content.pieces()).map(read).buffer_unordered(READS_IN_FLIGHT));
    let mut verified = 0;
    while let Some(data) = reads.next().await {
        let (piece, data) = data?;
        verified += u64::from(data == content.piece(piece));
    }
    Ok(verified)
}

async fn connect(stage: &Stage, node: usize) -> Result<Client> {
    let socket = stage.home(node).join("nbd").join(format!("{VOLUME}.sock"));
    Ok(Client::connect(&socket, VOLUME).await?)
}

/// Commands to try on a cluster that was left running.
fn next(stage: &Stage, attachment: &Attachment) -> Vec<String> {
    let infinit = stage.executable().display();
    let directory = stage.directory();
    let home = |node: usize| -> PathBuf { directory.join(NODES[node]) };
    let mut next = vec![format!("{infinit} --home {} status", home(KILLED).display())];
    if let Some(uri) = &attachment.nbd_uri {
        next.push(format!("nbdinfo '{uri}'"));
    }
    next.push(format!("{infinit} --home {} volume attach {VOLUME} --takeover", home(2).display()));
    next.push(format!(
        "to end it: for n in {}; do {infinit} --home {}/$n node stop; done; rm -r {}",
        NODES.join(" "),
        directory.display(),
        directory.display()
    ));
    next
}

fn step(tell: Tell<'_>, text: &str) {
    tell(DemoEvent::Step(text.to_owned()));
}

/// Returns once the user, or the system, wants it to end.
async fn interrupted() -> Fault {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else {
        return Fault::failed("cannot wait for signals");
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Fault::failed("interrupted: the nodes were ended and their directory was removed")
}
