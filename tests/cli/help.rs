//! The help of the program, of every noun and of every verb.

use crate::cli::{Home, golden};

/// Every way to ask for help, by golden file.
const PAGES: [(&str, &[&[&str]]); 4] = [
    (
        "help-network.txt",
        &[
            &["network", "--help"],
            &["network", "create", "--help"],
            &["network", "join", "--help"],
            &["network", "invite", "--help"],
            &["network", "list", "--help"],
            &["network", "show", "--help"],
            &["network", "set", "--help"],
            &["network", "leave", "--help"],
            &["network", "recover", "--help"],
        ],
    ),
    (
        "help-node.txt",
        &[
            &["node", "--help"],
            &["node", "run", "--help"],
            &["node", "wait", "--help"],
            &["node", "list", "--help"],
            &["node", "show", "--help"],
            &["node", "drain", "--help"],
            &["node", "remove", "--help"],
            &["node", "stop", "--help"],
            &["node", "install", "--help"],
        ],
    ),
    (
        "help-volume.txt",
        &[
            &["volume", "--help"],
            &["volume", "create", "--help"],
            &["volume", "list", "--help"],
            &["volume", "status", "--help"],
            &["volume", "attach", "--help"],
            &["volume", "detach", "--help"],
            &["volume", "set", "--help"],
            &["volume", "scrub", "--help"],
            &["volume", "recover", "--help"],
            &["volume", "delete", "--help"],
        ],
    ),
    (
        "help-others.txt",
        &[
            &["--help"],
            &["status", "--help"],
            &["doctor", "--help"],
            &["demo", "--help"],
            &["completions", "--help"],
            &["man", "--help"],
            &["volume"],
        ],
    ),
];

#[test]
fn every_verb_has_its_help() {
    let home = Home::new();
    for (name, calls) in PAGES {
        let transcripts: Vec<_> = calls.iter().map(|args| home.run(args)).collect();
        golden(name, &transcripts);
    }
}

#[test]
fn no_verb_is_missing_from_the_pages() {
    let shown: Vec<String> = PAGES.iter().flat_map(|(_, calls)| calls.iter()).map(|args| args.join(" ")).collect();
    let definitions = infinit::cli::definitions();
    for noun in definitions.get_subcommands() {
        assert!(shown.contains(&format!("{} --help", noun.get_name())), "{}", noun.get_name());
        for verb in noun.get_subcommands() {
            let call = format!("{} {} --help", noun.get_name(), verb.get_name());
            assert!(shown.contains(&call), "{call}");
        }
    }
}

#[test]
fn without_arguments_it_helps() {
    let home = Home::new();
    let bare = home.run(&[]);
    assert_eq!((bare.code, bare.stderr.as_str()), (0, ""));
    assert_eq!(bare.stdout, home.run(&["-h"]).stdout);
    let version = home.run(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("infinit {}\n", env!("CARGO_PKG_VERSION"))));
}
