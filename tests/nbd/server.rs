//! Starting, stopping and cutting off.

use std::io::ErrorKind;

use infinit::base::error::Kind;
use infinit::interface::nbd::protocol::{
    CMD_DISC, CMD_READ, CMD_WRITE, CONNECTIONS_MAX, HANDSHAKE_MAX, OPT_GO, REP_ERR_UNKNOWN, STOP_MAX,
};
use infinit::interface::nbd::{Address, Server};
use infinit::volume::block::device::Device;
use infinit::volume::block::memory::Memory;

use super::Served;
use super::raw::{Raw, ask, request};

const MIB: u64 = 1 << 20;

#[test]
fn a_stop_answers_what_is_in_flight_and_refuses_the_rest() {
    let mut served = Served::new(Memory::new(MIB));
    let (mut idle, mut busy) = (served.connect(false), served.connect(false));
    let mut undecided = Raw::connect(&served.socket()).unwrap();
    let memory = served.memory.clone();
    let hold = memory.hold(0..4096);
    busy.send(&[request(CMD_WRITE, 0, 1, 0, 4), b"kept".to_vec()].concat()).unwrap();
    served.runtime.block_on(memory.waiting(1));
    let stopped = served.runtime.spawn(served.server.take().unwrap().stop());
    assert!(idle.is_closed() && undecided.is_closed());
    assert!(Raw::connect(&served.socket()).is_err(), "nobody is let in any more");
    drop(hold);
    assert_eq!(busy.answer().unwrap().errno, 0);
    assert!(busy.is_closed());
    served.runtime.block_on(stopped).unwrap();
    assert_eq!(Raw::connect(&served.socket()).err().unwrap().kind(), ErrorKind::NotFound, "the socket is gone");
    assert_eq!(served.runtime.block_on(memory.read(0, 4)).unwrap(), "kept");
    assert_eq!(served.counts().connections_open, 0);
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut served = Served::new(Memory::new(MIB));
    let mut stuck = served.connect(false);
    let memory = served.memory.clone();
    let _hold = memory.hold(0..4096);
    stuck.send(&request(CMD_READ, 0, 1, 0, 4)).unwrap();
    served.runtime.block_on(memory.waiting(1));
    let began = std::time::Instant::now();
    served.runtime.block_on(served.server.take().unwrap().stop());
    assert!(began.elapsed() >= STOP_MAX && began.elapsed() < STOP_MAX * 2);
    assert!(stuck.is_closed());
}

#[test]
fn a_client_that_never_chooses_is_closed() {
    let served = Served::new(Memory::new(MIB));
    let began = std::time::Instant::now();
    let mut silent = Raw::connect_silent(&served.socket()).unwrap();
    let mut halfway = Raw::connect(&served.socket()).unwrap();
    let mut chosen = served.connect(false);
    assert!(silent.is_closed() && halfway.is_closed());
    assert!(began.elapsed() >= HANDSHAKE_MAX && began.elapsed() < HANDSHAKE_MAX * 2);
    assert_eq!(chosen.read(0, 1).unwrap(), [0], "who has chosen may be idle");
}

#[test]
fn an_abort_cuts_the_connections_of_one_export() {
    let served = Served::new(Memory::new(MIB));
    served.shelf.put("other", served.shelf_export());
    let mut other = Raw::connect(&served.socket()).unwrap().into_transmission("other", false);
    let mut fenced = served.connect(false);
    let hold = served.memory.hold(0..4096);
    fenced.send(&[request(CMD_WRITE, 0, 1, 0, 4), b"lost".to_vec()].concat()).unwrap();
    served.runtime.block_on(served.memory.waiting(1));
    served.shelf.remove("disk");
    served.server().abort_export("disk");
    assert!(fenced.is_closed(), "also while a request of it is parked");
    drop(hold);
    assert_eq!(other.read(0, 4).unwrap(), [0; 4]);
    let mut late = Raw::connect(&served.socket()).unwrap();
    assert_eq!(late.option_kinds(OPT_GO, &ask("disk", &[])).unwrap(), [REP_ERR_UNKNOWN]);
    served.server().abort();
    assert!(other.is_closed() && late.is_closed());
}

#[test]
fn more_connections_than_the_limit_are_turned_away() {
    let served = Served::new(Memory::new(MIB));
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| served.connect(false)).collect();
    let mut turned_away = Raw::connect_silent(&served.socket()).unwrap();
    assert!(turned_away.is_closed());
    let mut leaving = clients.pop().unwrap();
    leaving.send(&request(CMD_DISC, 0, 0, 0, 0)).unwrap();
    assert!(leaving.is_closed());
    // The server may learn of the end a moment after the client: it is asked until it has.
    while served.server().connections() >= CONNECTIONS_MAX {
        std::thread::yield_now();
    }
    served.connect(false);
}

#[test]
fn a_second_server_on_the_same_socket_is_refused() {
    let served = Served::new(Memory::new(MIB));
    let address = Address::unix(served.socket()).unwrap();
    let second = served.runtime.block_on(Server::start(&address, served.shelf.clone())).err().unwrap();
    assert_eq!(second.kind, Kind::Conflict);
    served.connect(false);
}

impl Served {
    fn shelf_export(&self) -> infinit::interface::nbd::Export {
        infinit::interface::nbd::Export::new(self.memory.clone())
    }
}
