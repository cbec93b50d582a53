//! Clients that break the protocol lose their own connection, and only that.

use infinit::interface::nbd::protocol::{
    CMD_DISC, CMD_FLAG_DF, CMD_FLUSH, CMD_READ, CMD_WRITE, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_LIST,
    OPTION_BYTES_MAX, OPTION_DRAIN_BYTES_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_DRAIN_BYTES_MAX, REP_ACK, REP_ERR_INVALID,
    REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_SERVER,
};
use infinit::volume::block::memory::Memory;

use super::Served;
use super::raw::{Raw, ask, option, request, u64_at};

const MIB: u64 = 1 << 20;

/// Runs `wrong` against a server while another client is connected, and sees that this one notices nothing.
fn beside_a_bystander(wrong: impl FnOnce(&Served)) {
    let served = Served::new(Memory::new(128 * MIB));
    let mut bystander = served.connect(false);
    assert_eq!(bystander.write(0, b"before").unwrap(), 0);
    // A request that is half sent stays so while the others misbehave.
    let pending = [request(CMD_WRITE, 0, 9, 100, 5), b"later".to_vec()].concat();
    bystander.send(&pending[..30]).unwrap();
    wrong(&served);
    bystander.send(&pending[30..]).unwrap();
    assert_eq!(bystander.answer().unwrap().errno, 0);
    assert_eq!(bystander.read(0, 6).unwrap(), b"before");
    assert_eq!(bystander.read(100, 5).unwrap(), b"later");
}

#[test]
fn garbage_closes_the_connection_it_came_by() {
    beside_a_bystander(|served| {
        let mut greeting = Raw::connect_with_flags(&served.socket(), 0xffff_ffff).unwrap();
        assert!(greeting.is_closed(), "unknown client flags");
        let mut handshake = Raw::connect(&served.socket()).unwrap();
        handshake.send(&[0x5a; 64]).unwrap();
        assert!(handshake.is_closed(), "garbage for an option");
        for structured in [false, true] {
            let mut session = served.connect(structured);
            session.send(&[0x5a; 28]).unwrap();
            assert!(session.is_closed(), "garbage for a request");
        }
        let mut http = Raw::connect_silent(&served.socket()).unwrap();
        http.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(http.is_closed(), "another protocol");
    });
}

#[test]
fn half_a_request_and_then_nothing_ends_quietly() {
    beside_a_bystander(|served| {
        let whole = [request(CMD_WRITE, 0, 1, 500, 1000), vec![7; 1000]].concat();
        for cut in [1, 27, 28, 29, 1027] {
            let mut client = served.connect(false);
            client.send(&whole[..cut]).unwrap();
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(client.is_closed());
        }
        let mut reader = served.connect(false);
        assert_eq!(reader.read(500, 1000).unwrap(), vec![0; 1000], "nothing of it was written");
    });
}

#[test]
fn what_is_too_large_is_refused_or_closes_the_connection() {
    beside_a_bystander(|served| {
        let mut refused = served.connect(false);
        let length = PAYLOAD_BYTES_MAX + 1;
        assert_eq!(refused.write(0, &vec![1; length as usize]).unwrap(), 22);
        assert_eq!(refused.read(0, 6).unwrap(), b"before", "framing is kept");
        for length in [PAYLOAD_DRAIN_BYTES_MAX + 1, u32::MAX] {
            let mut closed = served.connect(true);
            closed.send(&request(CMD_WRITE, 0, 1, 0, length)).unwrap();
            assert!(closed.is_closed());
        }
        let mut read = served.connect(true);
        assert_eq!(read.errno_of(&request(CMD_READ, 0, 1, 0, u32::MAX)).unwrap(), 22);
        assert_eq!(read.errno_of(&request(CMD_READ, CMD_FLAG_DF, 1, 0, u32::MAX)).unwrap(), 22, "past the end first");
    });
}

#[test]
fn unknown_commands_are_refused_and_framing_kept() {
    beside_a_bystander(|served| {
        for structured in [false, true] {
            let mut client = served.connect(structured);
            for command in [8, 9, 255, u16::MAX] {
                assert_eq!(client.errno_of(&request(command, 0, command.into(), 0, 512)).unwrap(), 22);
            }
            for flags in [1 << 5, 1 << 9, 1 << 15] {
                assert_eq!(client.errno_of(&request(CMD_FLUSH, flags, 1, 0, 0)).unwrap(), 22);
            }
            assert_eq!(client.errno_of(&request(CMD_FLUSH, 0, 1, 0, 0)).unwrap(), 0);
        }
    });
}

#[test]
fn unknown_and_wrong_options_are_answered_and_framing_kept() {
    beside_a_bystander(|served| {
        let mut client = Raw::connect(&served.socket()).unwrap();
        for code in [0, 4, 5, 11, 12, 0x7fff_ffff, u32::MAX] {
            assert_eq!(client.option_kinds(code, b"what is this").unwrap(), [REP_ERR_UNSUP], "option {code}");
        }
        assert_eq!(client.option_kinds(OPT_LIST, b"no data here").unwrap(), [REP_ERR_INVALID]);
        assert_eq!(client.option_kinds(OPT_GO, &ask("absent", &[])).unwrap(), [REP_ERR_UNKNOWN]);
        assert_eq!(client.option_kinds(OPT_GO, &[0xff; 8]).unwrap(), [REP_ERR_INVALID]);
        let long = vec![0; OPTION_BYTES_MAX as usize + 1];
        assert_eq!(client.option_kinds(OPT_GO, &long).unwrap(), [REP_ERR_TOO_BIG]);
        assert_eq!(client.option_kinds(99, &vec![0; OPTION_DRAIN_BYTES_MAX as usize]).unwrap(), [REP_ERR_TOO_BIG]);
        assert_eq!(client.option_kinds(OPT_LIST, b"").unwrap(), [REP_SERVER, REP_ACK]);
        client.into_transmission("disk", true);

        let mut endless = Raw::connect(&served.socket()).unwrap();
        endless.send(&option(OPT_GO, u32::MAX, b"")).unwrap();
        assert!(endless.is_closed());
        let mut leaving = Raw::connect(&served.socket()).unwrap();
        assert_eq!(leaving.option_kinds(OPT_ABORT, b"").unwrap(), [REP_ACK]);
        assert!(leaving.is_closed());
    });
}

#[test]
fn the_oldest_way_in_works_with_and_without_padding() {
    let served = Served::new(Memory::new(MIB));
    for (flags, length) in [(1, 134), (3, 10)] {
        let mut client = Raw::connect_with_flags(&served.socket(), flags).unwrap();
        // The first request may come at once: nothing is waited for.
        client.send(&[option(OPT_EXPORT_NAME, 4, b"disk"), request(CMD_FLUSH, 0, 5, 0, 0)].concat()).unwrap();
        let info = client.receive(length).unwrap();
        assert_eq!(u64_at(&info, 0), MIB);
        assert!(info[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.answer().unwrap().cookie, 5);
        client.send(&request(CMD_DISC, 0, 0, 0, 0)).unwrap();
        assert!(client.is_closed());
    }
    let mut absent = Raw::connect(&served.socket()).unwrap();
    absent.send(&option(OPT_EXPORT_NAME, 6, b"absent")).unwrap();
    assert!(absent.is_closed());
}
