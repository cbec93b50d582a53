//! The group's messages in a few words, for the traces of simulations.

use openraft::raft::AppendEntriesResponse;

use crate::base::id::NodeId;
use crate::cluster::consensus::log_file::GroupNumber;
use crate::cluster::consensus::types::{Payload, RaftVote};
use crate::cluster::consensus::wire::{self, Answer, Request};

const WORDS_MAX: usize = 160;

pub fn request(group: GroupNumber, message: &[u8]) -> String {
    let Ok(request) = wire::decode::<Request>(group, message) else { return "no request".to_owned() };
    match request {
        Request::Append { entries, quorum } => {
            let contents = entries.entries.iter().map(|entry| match &entry.payload {
                Payload::Blank => "blank".to_owned(),
                Payload::Normal(proposal) => proposal.to_string(),
                Payload::Membership(members) => {
                    let sets = members.get_joint_config().iter().map(|set| set.iter().map(NodeId::short).collect());
                    format!("voters {:?}", sets.collect::<Vec<Vec<_>>>())
                }
            });
            let contents: Vec<String> = contents.collect();
            let after = entries.prev_log_id.map_or(0, |id| id.index + 1);
            let commit = entries.leader_commit.map_or(0, |id| id.index + 1);
            let sure = if quorum { "" } else { ", without quorum" };
            short(format!("append in {} after {after}, committed {commit}{sure}: {contents:?}", term(&entries.vote)))
        }
        Request::Vote(vote) => format!("vote in {}? last {:?}", term(&vote.vote), vote.last_log_id.map(|id| id.index)),
        Request::PreVote(vote) => format!("would you vote in {}?", term(&vote.vote)),
        Request::Snapshot(part) => {
            format!("snapshot, {} of {} bytes", part.offset + part.bytes.len() as u64, part.total)
        }
        Request::Transfer(_) => "take the leadership".to_owned(),
        Request::Propose(proposal) => format!("propose {proposal}"),
        Request::ReadIndex => "how far to read?".to_owned(),
    }
}

pub fn answer(group: GroupNumber, message: &[u8]) -> String {
    let Ok(answer) = wire::decode::<Answer>(group, message) else { return "no answer".to_owned() };
    match answer {
        Answer::Append(AppendEntriesResponse::HigherVote(vote)) => format!("no, {} is higher", term(&vote)),
        Answer::Append(response) => short(format!("{response:?}")),
        Answer::Vote(response) | Answer::PreVote(response) => {
            let granted = if response.vote_granted { "granted" } else { "not granted" };
            format!("{granted}, in {}", term(&response.vote))
        }
        other => short(format!("{other:?}")),
    }
}

fn term(vote: &RaftVote) -> String {
    let committed = if vote.committed { "" } else { " (candidate)" };
    format!("term {}.{}{committed}", vote.leader_id.term, vote.leader_id.node_id.short())
}

fn short(text: String) -> String {
    text.chars().take(WORDS_MAX).collect()
}
