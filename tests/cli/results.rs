//! What verbs print when they succeed: tables for people, JSON for scripts, one line on stderr about what was done.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use infinit::daemon::api;
use serde_json::Value;

use crate::cli::canned::Canned;
use crate::cli::{Home, Transcript, answers, golden};

#[test]
fn tables_are_for_people() {
    let daemon = Canned::start();
    let calls: [&[&str]; 11] = [
        &["status"],
        &["network", "show"],
        &["node", "list"],
        &["node", "show"],
        &["node", "show", "host-b"],
        &["node", "show", "host-c"],
        &["node", "show", "host-d"],
        &["volume", "list"],
        &["volume", "status", "pg"],
        &["volume", "status", "old"],
        &["--network", "prod", "volume", "list", "-q"],
    ];
    let transcripts: Vec<_> = calls.iter().map(|args| daemon.home.run(args)).collect();
    golden("tables.txt", &transcripts);
}

#[test]
fn all_well_fits_in_a_few_lines() {
    let daemon = Canned::with_status(answers::quiet_status());
    golden("status-quiet.txt", &[daemon.home.run(&["status"])]);
}

#[test]
fn json_is_for_scripts() {
    let daemon = Canned::start();
    let calls: [&[&str]; 4] = [
        &["--output", "json", "network", "show"],
        &["node", "show", "--output", "json"],
        &["volume", "status", "pg", "--output=json"],
        &["volume", "attach", "pg", "--output", "json"],
    ];
    let transcripts: Vec<_> = calls.iter().map(|args| daemon.home.run(args)).collect();
    golden("json.txt", &transcripts);
}

#[test]
fn json_reads_back_as_what_the_daemon_said() {
    let daemon = Canned::start();
    let json = |args: &[&str]| {
        let transcript = daemon.home.run(&[args, &["--output", "json"]].concat());
        assert_eq!((transcript.code, transcript.stderr.as_str()), (0, ""), "{args:?}");
        transcript.stdout
    };
    let status: api::Status = serde_json::from_str(&json(&["status"])).unwrap();
    assert_eq!(status, answers::status());
    let nodes: Vec<api::Node> = serde_json::from_str(&json(&["node", "list"])).unwrap();
    assert_eq!(nodes, answers::nodes());
    let volumes: Vec<api::Volume> = serde_json::from_str(&json(&["volume", "list"])).unwrap();
    assert_eq!(volumes, answers::volumes());
    let raw: Value = serde_json::from_str(&json(&["volume", "list"])).unwrap();
    assert!(raw[0]["id"].is_string() && raw[0]["size_bytes"].is_u64() && raw[0]["name"] == "pg");
    for verb in [
        &["volume", "create", "new", "--size", "1GiB"][..],
        &["volume", "detach", "pg"],
        &["volume", "delete", "old", "--yes"],
        &["network", "invite"],
        &["network", "leave", "--yes"],
        &["node", "wait"],
    ] {
        let value: Value = serde_json::from_str(&json(verb)).unwrap();
        assert!(value.is_object(), "{verb:?}");
    }
}

#[test]
fn stdout_has_what_a_script_wants_and_nothing_else() {
    let daemon = Canned::start();
    let calls: [&[&str]; 10] = [
        &["volume", "create", "new", "--size", "20GiB"],
        &["volume", "create", "one", "--size", "4KiB", "--replicas", "1", "--durability", "write", "--lease", "2s"],
        &["volume", "attach", "pg"],
        &["volume", "attach", "pg", "-q"],
        &["volume", "detach", "pg"],
        &["volume", "detach", "old"],
        &["volume", "delete", "old", "--yes"],
        &["network", "invite", "--role", "admin", "--uses", "1"],
        &["network", "leave", "--yes"],
        &["node", "wait", "--timeout", "30s"],
    ];
    let transcripts: Vec<_> = calls.iter().map(|args| daemon.home.run(args)).collect();
    golden("verbs.txt", &transcripts);
}

#[test]
fn a_scrub_is_watched_to_its_end() {
    let calls: [(i32, &[&str]); 7] = [
        (0, &["volume", "scrub", "pg"]),
        (0, &["volume", "scrub", "pg", "-q"]),
        (0, &["volume", "scrub", "pg", "--output", "json"]),
        (1, &["volume", "scrub", "mail"]),
        (1, &["volume", "scrub", "old"]),
        (1, &["volume", "scrub", "failed", "--output", "json"]),
        (5, &["volume", "scrub", "away"]),
    ];
    let run = |(code, args): &(i32, &[&str])| {
        let daemon = Canned::start();
        let transcript = daemon.home.run(args);
        assert_eq!(transcript.code, *code, "{}", transcript.text());
        let last = daemon.last_request();
        assert!(last.starts_with(if *code > 0 { "POST " } else { "GET " }), "{last}");
        transcript
    };
    golden("scrub.txt", &calls.iter().map(run).collect::<Vec<_>>());
}

#[test]
fn an_interrupted_scrub_says_that_it_goes_on() {
    let daemon = Canned::start();
    let args = ["volume", "scrub", "waiting"];
    let mut child = spawn(daemon.home.command(&args));
    while !daemon.last_request().starts_with("GET ") {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        std::thread::yield_now();
    }
    // `timeout` passes the signal on.
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let transcript = Transcript::of(&daemon.home, &args, child.wait_with_output().unwrap());
    golden("scrub-interrupted.txt", &[transcript]);
}

#[test]
fn requests_say_what_was_asked() {
    let daemon = Canned::start();
    let asks = |args: &[&str]| {
        let transcript = daemon.home.run(args);
        assert_eq!(transcript.code, 0, "{}", transcript.text());
        daemon.last_request()
    };
    assert_eq!(
        asks(&[
            "volume",
            "create",
            "a b",
            "--size",
            "1MiB",
            "--durability",
            "write",
            "--lease",
            "1m",
            "--replicas",
            "1"
        ]),
        r#"POST /v1/volumes {"name":"a b","size_bytes":1048576,"replicas":1,"durability":"write","lease_ms":60000}"#
    );
    assert_eq!(
        asks(&["volume", "attach", "pg", "--nbd", "tcp:127.0.0.1:10809", "--takeover", "--timeout", "1s"]),
        r#"POST /v1/volumes/pg/attach {"nbd":"tcp:127.0.0.1:10809","takeover":true,"timeout_ms":1000}"#
    );
    assert_eq!(
        asks(&["network", "invite", "--role", "client", "--expires", "7d", "--uses", "3"]),
        r#"POST /v1/network/invitations {"role":"client","expires_ms":604800000,"uses":3}"#
    );
    assert_eq!(asks(&["volume", "attach", "ü?", "-q"]).split(' ').nth(1), Some("/v1/volumes/%C3%BC%3F/attach"));
}

#[test]
fn a_relative_socket_is_where_the_user_stands() {
    let daemon = Canned::start();
    let mut command = daemon.home.command(&["volume", "attach", "pg", "--nbd", "unix:pg.sock"]);
    assert!(command.current_dir("/").output().unwrap().status.success());
    assert!(daemon.last_request().contains(r#""nbd":"unix:/pg.sock""#), "{}", daemon.last_request());
}

#[test]
fn watch_draws_anew_until_nobody_looks() {
    let daemon = Canned::start();
    let mut child = daemon.home.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let headline = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("network prod"));
        assert!(headline.is_some());
    }
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn watch_in_json_is_a_line_each() {
    let daemon = Canned::start();
    let mut child =
        daemon.home.command(&["status", "--watch", "--output", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(2) {
        let status: api::Status = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(status, answers::status());
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn wait_begins_before_the_daemon_does() {
    let home = Home::new();
    let command = home.command(&["node", "wait", "--timeout", "30s"]);
    let waiting = spawn(command);
    // The daemon comes up in another home, and its socket moves here: connections follow the file.
    let daemon = Canned::start();
    std::fs::rename(daemon.home.socket(), home.socket()).unwrap();
    let transcript = Transcript::of(&home, &[], waiting.wait_with_output().unwrap());
    assert_eq!(transcript.code, 0, "{}", transcript.text());
    assert!(transcript.stderr.starts_with("node host-a is ready"), "{}", transcript.stderr);
}

/// A daemon in a process of its own: it answers one request, then it ends as soon as its stdin does.
const DAEMON: &str = r#"
import json, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
body = json.dumps({"node": {"id": "01" * 32, "name": "host-a"}}).encode()
while True:
    connection = listener.accept()[0]
    if connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        break
print("asked", flush=True)
sys.stdin.read()
"#;

#[test]
fn stop_returns_once_the_daemon_has_ended() {
    let home = Home::new();
    let mut daemon = Command::new("python3");
    daemon.args(["-c", DAEMON, home.socket().to_str().unwrap()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut daemon = daemon.spawn().unwrap();
    let mut said = BufReader::new(daemon.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "listening");
    let mut stopping = spawn(home.command(&["node", "stop"]));
    assert_eq!(said.next().unwrap().unwrap(), "asked");
    assert!(stopping.try_wait().unwrap().is_none(), "it returned while the daemon ran");
    drop(daemon.stdin.take());
    assert!(daemon.wait().unwrap().success());
    let transcript = Transcript::of(&home, &["node", "stop"], stopping.wait_with_output().unwrap());
    golden("stop.txt", &[transcript, home.run(&["node", "stop"])]);
}

fn spawn(mut command: Command) -> std::process::Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let daemon = Canned::start();
    let calls: [&[&str]; 9] = [
        &["status"],
        &["status", "--watch"],
        &["--help"],
        &["volume", "list", "--output", "json"],
        &["volume", "status", "pg"],
        &["volume", "attach", "pg", "-q"],
        &["network", "invite", "-q"],
        &["node", "show"],
        &["completions", "zsh"],
    ];
    for args in calls {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = daemon.home.command(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn a_reader_of_errors_that_leaves_changes_nothing() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = home.command(&["status"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn a_full_disk_is_an_error() {
    let daemon = Canned::start();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = daemon.home.command(&["status"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(said, "error: cannot write to stdout: No space left on device\n");
}
