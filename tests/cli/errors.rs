//! Every refusal is one line, a hint where something mends it, and an exit code.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use infinit::base::error::{Fault, Kind};

use crate::cli::canned::Canned;
use crate::cli::{Home, golden};

#[test]
fn wrong_usage_is_refused_before_anyone_is_asked() {
    let home = Home::new();
    let long = "n".repeat(65);
    let calls: [&[&str]; 46] = [
        &["volum", "list"],
        &["volume", "creat"],
        &["volume", "list", "--colour"],
        &["volume", "create"],
        &["volume", "create", "pg"],
        &["volume", "create", "pg", "--size", "0GiB"],
        &["volume", "create", "pg", "--size", "20"],
        &["volume", "create", "pg", "--size", "0"],
        &["volume", "create", "pg", "--size", "-1"],
        &["volume", "create", "pg", "--size", "-1GiB"],
        &["volume", "create", "pg", "--size", "5000"],
        &["volume", "create", "pg", "--size", "21474836480"],
        &["volume", "create", "pg", "--size", "1GiB", "--replicas", "-1"],
        &["volume", "create", "pg", "--size", "20XB"],
        &["volume", "create", "pg", "--size", "GiB"],
        &["volume", "create", "pg", "--size", "5000B"],
        &["volume", "create", "pg", "--size", "65TiB"],
        &["volume", "create", "a/b", "--size", "1GiB"],
        &["volume", "create", "a\nb", "--size", "1GiB"],
        &["volume", "create", "", "--size", "1GiB"],
        &["volume", "create", &long, "--size", "1GiB"],
        &["volume", "create", "pg", "--size", "1GiB", "--replicas", "8"],
        &["volume", "create", "pg", "--size", "1GiB", "--replicas", "0"],
        &["volume", "create", "pg", "--size", "1GiB", "--replicas", "many"],
        &["volume", "create", "pg", "--size", "1GiB", "--durability", "never"],
        &["volume", "create", "pg", "--size", "1GiB", "--lease", "5"],
        &["volume", "create", "pg", "--size", "1GiB", "--lease", "1ms"],
        &["volume", "attach", "pg", "--nbd", "pg.sock"],
        &["volume", "attach", "pg", "--nbd", "tcp:localhost:10809"],
        &["volume", "attach", "pg", "--nbd", "tcp:0.0.0.0:10809"],
        &["volume", "attach", "pg", "--timeout", "0s"],
        &["volume", "status", "a/b"],
        &["node", "run", "--listen", "localhost"],
        &["node", "run", "--listen", "300.1.1.1:7420"],
        &["node", "run", "--advertise", "::1:7420"],
        &["node", "run", "--silo", "/data:5"],
        &["node", "run", "--zone", "rack\t2"],
        &["node", "run", "--zone", " rack"],
        &["node", "wait", "--timeout", "30"],
        &["network", "create", "a/b"],
        &["network", "invite", "--role", "king"],
        &["network", "invite", "--uses", "0"],
        &["network", "join", " "],
        &["completions", "tcsh"],
        &["status", "--output", "xml"],
        &["man", "nothing"],
    ];
    let transcripts: Vec<_> = calls.iter().map(|args| home.run(args)).collect();
    for transcript in &transcripts {
        let expected = if transcript.call.contains("man nothing") { 3 } else { 2 };
        assert_eq!(transcript.code, expected, "{}", transcript.text());
        let lines: Vec<&str> = transcript.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", transcript.text());
        assert!(lines[0].starts_with("error: ") && lines[1].starts_with("hint: "), "{}", transcript.text());
        assert!(transcript.stdout.is_empty());
    }
    golden("usage.txt", &transcripts);
}

#[test]
fn without_a_daemon_every_verb_names_how_to_start_it() {
    let home = Home::new();
    let calls: [&[&str]; 11] = [
        &["status"],
        &["status", "--watch"],
        &["node", "list"],
        &["node", "show"],
        &["volume", "create", "pg", "--size", "1GiB"],
        &["volume", "list"],
        &["volume", "status", "pg"],
        &["volume", "attach", "pg"],
        &["volume", "detach", "pg"],
        &["volume", "delete", "pg"],
        &["--network", "prod", "status"],
    ];
    for args in calls {
        let transcript = home.run(args);
        assert_eq!(transcript.code, 5, "{}", transcript.text());
        assert!(transcript.stderr.contains("hint: start this machine's node: infinit --home HOME node run"));
    }
    let none = home.run(&["network", "leave"]);
    assert_eq!((none.code, none.stderr.contains("there is no network in HOME")), (3, true), "{}", none.text());
    let waited = home.run(&["node", "wait", "--timeout", "300ms"]);
    golden("no-daemon.txt", &[home.run(&["status"]), home.run(&["status", "--output", "json"]), waited]);
}

#[test]
fn a_dead_socket_is_no_daemon() {
    let home = Home::new();
    drop(UnixListener::bind(home.socket()).unwrap());
    let dead = home.run(&["status"]);
    assert_eq!((dead.code, dead.stderr.contains("node run")), (5, true), "{}", dead.text());
    std::fs::remove_file(home.socket()).unwrap();
    std::fs::write(home.socket(), "no socket").unwrap();
    assert_eq!(home.run(&["status"]).stderr, dead.stderr);
}

#[test]
fn a_daemon_that_breaks_off_is_not_reachable() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let hang_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let transcript = home.run(&["status"]);
    hang_up.join().unwrap();
    assert_eq!(transcript.code, 5, "{}", transcript.text());
    assert!(transcript.stderr.starts_with("error: the daemon broke off: "), "{}", transcript.stderr);
}

#[test]
fn a_home_beyond_what_sockets_reach_is_refused() {
    let home = Home::new();
    let deep = home.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let transcript = home.run(&["--home", deep.to_str().unwrap(), "status"]);
    assert_eq!(transcript.code, 2, "{}", transcript.text());
    assert!(transcript.stderr.contains("hint: choose a shorter --home"));
}

#[test]
fn a_unit_directory_that_cannot_be_written_is_named() {
    let home = Home::new();
    let dir = home.path().join("units");
    let args = ["node", "install", "--no-start", "--unit-dir", dir.to_str().unwrap()];
    let absent = home.run(&args);
    assert_eq!(absent.code, 1, "{}", absent.text());
    assert!(absent.stderr.starts_with("error: cannot write HOME/units/infinit.service: "), "{}", absent.stderr);
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(home.run(&args).code, 0);
    assert!(std::fs::read_to_string(dir.join("infinit.service")).unwrap().contains("\nExecStart=/"));
}

#[test]
fn what_the_daemon_refuses_ends_with_the_code_of_its_kind() {
    let daemon = Canned::start();
    let calls: [(i32, &[&str]); 20] = [
        (3, &["volume", "status", "none"]),
        (3, &["volume", "detach", "none"]),
        (3, &["volume", "delete", "none", "--yes"]),
        (3, &["node", "show", "none"]),
        (3, &["--network", "other", "volume", "list"]),
        (4, &["volume", "create", "pg", "--size", "1GiB"]),
        (2, &["volume", "create", "new", "--size", "1GiB", "--replicas", "5"]),
        (4, &["volume", "attach", "logs"]),
        (4, &["volume", "delete", "pg", "--yes"]),
        (4, &["volume", "delete", "pg"]),
        (2, &["volume", "delete", "old"]),
        (2, &["network", "leave"]),
        (5, &["volume", "attach", "no-quorum"]),
        (6, &["volume", "attach", "fenced"]),
        (7, &["volume", "attach", "slow"]),
        (1, &["volume", "attach", "failing"]),
        (1, &["volume", "attach", "closed"]),
        (1, &["volume", "attach", "no-json"]),
        (7, &["node", "wait", "--timeout", "500ms"]),
        (7, &["node", "wait", "--copies", "--timeout", "1500ms"]),
    ];
    let transcripts: Vec<_> = calls.iter().map(|(_, args)| daemon.home.run(args)).collect();
    for (transcript, (code, _)) in transcripts.iter().zip(calls) {
        assert_eq!(transcript.code, code, "{}", transcript.text());
        assert!(transcript.stdout.is_empty(), "{}", transcript.text());
    }
    golden("refusals.txt", &transcripts);
    let garbled = daemon.home.run(&["volume", "attach", "garbled"]);
    assert_eq!(garbled.code, 1);
    assert!(garbled.stderr.contains("is not understood"), "{}", garbled.stderr);
}

#[test]
fn a_take_over_takes_what_is_attached() {
    let daemon = Canned::start();
    let transcript = daemon.home.run(&["volume", "attach", "logs", "--takeover"]);
    assert_eq!(transcript.code, 0, "{}", transcript.text());
}

#[test]
fn a_daemon_that_does_not_end_is_given_up() {
    // The canned daemon lives in this process, which goes on.
    let daemon = Canned::start();
    let transcript = daemon.home.run(&["node", "stop", "--timeout", "200ms"]);
    assert_eq!(transcript.code, 7, "{}", transcript.text());
    assert!(transcript.stderr.starts_with("error: node host-a still runs after 200ms"), "{}", transcript.stderr);
}

#[test]
fn errors_are_json_where_results_are() {
    let daemon = Canned::start();
    let fault = |args: &[&str]| -> (i32, Fault) {
        let transcript = daemon.home.run(args);
        assert_eq!((transcript.stdout.as_str(), transcript.stderr.lines().count()), ("", 1), "{}", transcript.text());
        (transcript.code, serde_json::from_str(&transcript.stderr).unwrap())
    };
    let cases: [(&[&str], Kind); 5] = [
        (&["volume", "status", "none", "--output", "json"], Kind::NotFound),
        (&["--output=json", "volume", "attach", "logs"], Kind::Conflict),
        (&["--output", "json", "volume", "create", "pg", "--size", "20"], Kind::Usage),
        (&["--output", "json", "volume"], Kind::Usage),
        (&["--output", "json", "volume", "delete", "old"], Kind::Usage),
    ];
    for (args, kind) in cases {
        let (code, fault) = fault(args);
        assert_eq!((fault.kind, code), (kind, i32::from(kind.exit_code())), "{args:?}");
        assert!(fault.hint.is_some(), "{args:?}");
    }
}
