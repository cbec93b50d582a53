//! Machines that are none: network namespaces joined by a wire or a switch, gone with the test however it ends.

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
        self.within(&tool("ip", "iproute2"), words);
    }

    fn within(&self, tool: &Command, words: &[&str]) -> String {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        run(command.args(&enter[1..]).arg(tool.get_program()).args(words))
    }
}

/// A switch, in a namespace of its own: nobody else's rules drop what it forwards.
pub struct Switch {
    namespace: Namespace,
    pub machines: Vec<Namespace>,
    hidden: Vec<usize>,
    /// What those that are hidden are behind.
    routers: Vec<Namespace>,
}

impl Switch {
    /// Joins so many machines; the address of each ends in its number and one.
    pub fn new(machines: usize) -> Switch {
        let namespace = Namespace::new();
        namespace.ip(&["link", "add", "br0", "type", "bridge"]);
        namespace.ip(&["link", "set", "br0", "up"]);
        let machines: Vec<Namespace> = (0..machines).map(|_| Namespace::new()).collect();
        for (index, machine) in machines.iter().enumerate() {
            let (port, there) = (port(index), machine.keeper.id().to_string());
            namespace.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &there]);
            namespace.ip(&["link", "set", &port, "master", "br0", "up"]);
            machine.ip(&["link", "set", "eth0", "up"]);
            machine.address(&format!("{}/24", Switch::address(index)));
        }
        let switch = Switch { namespace, machines, hidden: Vec::new(), routers: Vec::new() };
        switch.nft(&["add", "table", "bridge", "cut"]);
        switch.nft(&["add", "chain", "bridge", "cut", "forward", "{ type filter hook forward priority 0 ; }"]);
        switch
    }

    /// Where a node on this machine listens.
    pub fn listen(&self, index: usize) -> String {
        let hidden = self.hidden.contains(&index);
        if hidden { "10.0.0.2:7420".to_owned() } else { format!("{}:7420", Switch::address(index)) }
    }

    pub fn address(index: usize) -> String {
        format!("192.0.2.{}", index + 1)
    }

    /// Puts a machine behind a router that translates addresses: it reaches everybody, and nobody reaches it. All that are
    /// hidden have the same address.
    pub fn hide(&mut self, index: usize) {
        let machine = Namespace::new();
        let router = std::mem::replace(&mut self.machines[index], machine);
        let machine = &self.machines[index];
        let there = machine.keeper.id().to_string();
        router.ip(&["link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", &there]);
        router.ip(&["address", "add", "10.0.0.1/24", "dev", "lan"]);
        router.ip(&["link", "set", "lan", "up"]);
        machine.ip(&["link", "set", "eth0", "up"]);
        machine.ip(&["address", "add", "10.0.0.2/24", "dev", "eth0"]);
        machine.ip(&["route", "add", "default", "via", "10.0.0.1"]);
        router.within(&tool("sysctl", "procps"), &["-q", "-w", "net.ipv4.ip_forward=1"]);
        let nft = tool("nft", "nftables");
        router.within(&nft, &["add", "table", "ip", "nat"]);
        router.within(&nft, &["add", "chain", "ip", "nat", "out", "{ type nat hook postrouting priority 100 ; }"]);
        router.within(&nft, &["add", "rule", "ip", "nat", "out", "oifname", "eth0", "masquerade"]);
        self.hidden.push(index);
        self.routers.push(router);
    }

    /// How many bytes this machine has received.
    pub fn received(&self, index: usize) -> u64 {
        let port = port(index);
        let told = self.namespace.within(&tool("ip", "iproute2"), &["-j", "-s", "link", "show", "dev", &port]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
    }

    /// Nothing that the first sends reaches the second any more; the other way round all does.
    pub fn deafen(&self, from: usize, to: usize) {
        let (from, to) = (port(from), port(to));
        self.nft(&["add", "rule", "bridge", "cut", "forward", "iifname", &from, "oifname", &to, "drop"]);
    }

    /// Nothing goes between these and those any more.
    pub fn cut(&self, these: &[usize], those: &[usize]) {
        for (one, other) in these.iter().flat_map(|one| those.iter().map(move |other| (*one, *other))) {
            self.deafen(one, other);
            self.deafen(other, one);
        }
    }

    /// Everything reaches everybody again.
    pub fn heal(&self) {
        self.nft(&["flush", "chain", "bridge", "cut", "forward"]);
    }

    fn nft(&self, words: &[&str]) {
        self.namespace.within(&tool("nft", "nftables"), words);
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends by itself; waiting leaves no zombie.
        let _ = self.keeper.wait();
    }
}
