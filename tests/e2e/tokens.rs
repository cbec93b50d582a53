//! Tokens that let nobody in: each is refused with its reason.

use std::time::Duration;

use infinit::base::clock::wall_seconds;
use infinit::transport::identity::{NetworkKey, TokenKey};
use infinit::transport::passport::{Invitation, Role};
use infinit::transport::token::{Contact, Token};

use crate::e2e::cluster::{Cluster, eventually};

#[test]
fn tokens_that_are_no_good_are_refused_with_their_reason() {
    let mut cluster = Cluster::bare(3);
    cluster.run(0, &["network", "create", "prod"]);
    cluster.start_with(0, &["--listen", "127.0.0.1:0", "--no-mdns"]);
    cluster.wait(0);

    let once = cluster.invite(0, &["--uses", "1"]);
    cluster.run(1, &["network", "join", &once.token]);
    cluster.refused(2, &["network", "join", &once.token]).expect(6, &["used up", "network invite"]);

    let brief = cluster.invite(0, &["--expires", "1s"]);
    let mut told = None;
    let expired = eventually(Duration::from_secs(10), || {
        let home = cluster.folder.path().join(format!("brief-{}", wall_seconds()));
        let output = cluster.command(2, &["--home", home.to_str().unwrap(), "network", "join", &brief.token]).output();
        let output = output.unwrap();
        told = Some(String::from_utf8_lossy(&output.stderr).into_owned());
        output.status.code() == Some(6)
    });
    assert!(expired && told.as_ref().is_some_and(|told| told.contains("expired")), "{told:?}");
    cluster.refused(2, &["network", "join", &brief.token]).expect(6, &["expired", "network invite"]);

    let good = cluster.invite(0, &[]);
    for place in [8, good.token.len() / 2, good.token.len() - 1] {
        let mut tampered = good.token.clone().into_bytes();
        tampered[place] = if tampered[place] == b'a' { b'b' } else { b'a' };
        let tampered = String::from_utf8(tampered).unwrap();
        cluster.refused(2, &["network", "join", &tampered]).expect(6, &["token", "network invite"]);
    }
    cluster.refused(2, &["network", "join", &good.token[..good.token.len() / 2]]).expect(6, &["token"]);
    cluster.refused(2, &["network", "join", "hello"]).expect(6, &["token"]);
    cluster.refused(2, &["network", "join", &foreign(&good.token)]).expect(6, &["network"]);
    let mut client = cluster.command(2, &["network", "join", "-"]);
    let mut child = client.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), good.token.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "a good token is let in after all that");
    // Joining again changes nothing and says so, with any token of that network, even one that is no longer good.
    for token in [&good.token, &brief.token] {
        let again = cluster.command(2, &["network", "join", token]).output().unwrap();
        let told = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success() && told.contains("already") && told.contains("nothing was done"), "{told}");
    }
}

/// An invitation by another network's owner to the addresses of this one.
fn foreign(token: &str) -> String {
    let ours: Token = token.parse().unwrap();
    let (owner, key) = (NetworkKey::generate(), TokenKey::generate());
    let invitation = Invitation::by_network(&owner, Role::Storage, wall_seconds() + 600, 1, &key).unwrap();
    let contacts: Vec<Contact> = ours.contacts.clone();
    Token::new("other".to_owned(), invitation, key, contacts).unwrap().to_string()
}

#[test]
fn who_may_not_invite_is_refused_and_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;

    let mut cluster = Cluster::bare(2);
    cluster.run(0, &["network", "create", "prod"]);
    cluster.start_with(0, &["--listen", "127.0.0.1:0", "--no-mdns"]);
    cluster.wait(0);
    let token = cluster.run(0, &["network", "invite", "--role", "client"]);
    cluster.run(1, &["network", "join", token.trim()]);
    cluster.refused(1, &["network", "invite"]).expect(6, &["may not invite"]);
    cluster.refused_run(1, &["--silo", "/tmp/never"]).expect(6, &["client", "--silo"]);
    for (node, key) in [(0, "network.key"), (0, "node.key"), (1, "node.key")] {
        let path = cluster.home(node).join("networks/prod").join(key);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert!(!cluster.home(1).join("networks/prod/network.key").exists());
}
