//! Two machines that are none: network namespaces joined by one wire, gone with the test however it ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::tools::{run, tool};

/// A network namespace. A process lives in it that ends when its input does, so that nothing is left even of a test
/// that was killed.
pub struct Namespace {
    keeper: Child,
}

impl Namespace {
    pub fn new() -> Namespace {
        let mut unshare = tool("unshare", "util-linux");
        let mut keeper = unshare.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // What comes back was read within the namespace.
        keeper.stdin.as_mut().unwrap().write_all(b"there\n").unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n", "no network namespace could be made");
        let namespace = Namespace { keeper };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Joins two namespaces by a wire, whose ends are both called `eth0`.
    pub fn wire(&self, other: &Namespace) {
        let there = other.keeper.id().to_string();
        self.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &there]);
        for end in [self, other] {
            end.ip(&["link", "set", "eth0", "up"]);
        }
    }

    /// Gives the wire's end this address and no other, like `192.0.2.1/24`.
    pub fn address(&self, address: &str) {
        self.ip(&["address", "flush", "dev", "eth0"]);
        self.ip(&["address", "add", address, "dev", "eth0"]);
        // Multicast goes where the kernel says, as on a machine with a gateway.
        self.ip(&["route", "replace", "default", "dev", "eth0"]);
    }

    /// The words that run a command within.
    pub fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.keeper.id())]
    }

    fn ip(&self, words: &[&str]) {
        let ip = tool("ip", "iproute2");
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        run(command.args(&enter[1..]).arg(ip.get_program()).args(words));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends by itself; waiting leaves no zombie.
        let _ = self.keeper.wait();
    }
}
