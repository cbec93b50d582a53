//! On a terminal: colors unless they are not wanted, and questions before something is destroyed. The terminal is that
//! of `script(1)`, which every Debian has.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::cli::canned::Canned;
use crate::cli::{BINARY, Home};

/// Runs the binary on a terminal, with these variables, and types the keys once it has printed the prompt. Returns what
/// the terminal showed, and the exit code.
fn on_terminal(
    home: &Home,
    args: &str,
    variables: &[(&str, &str)],
    prompt_and_keys: Option<(&str, &str)>,
) -> (String, i32) {
    let mut command = Command::new("script");
    command.args(["-qec", &format!("timeout --foreground 60 {BINARY} {args}"), "/dev/null"]).env_remove("NO_COLOR");
    command.env("TERM", "xterm").env("INFINIT_HOME", home.path()).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    if let Some((prompt, keys)) = prompt_and_keys {
        let mut byte = [0];
        while !String::from_utf8_lossy(&shown).contains(prompt) {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "no prompt: {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        keyboard.write_all(keys.as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    drop(keyboard);
    (String::from_utf8(shown).unwrap(), child.wait().unwrap().code().unwrap())
}

#[test]
fn a_terminal_has_colors_unless_they_are_not_wanted() {
    let daemon = Canned::start();
    let colored = |args: &str, variables: &[(&str, &str)]| {
        let (shown, code) = on_terminal(&daemon.home, args, variables, None);
        assert_eq!(code, 0, "{shown}");
        shown.contains("\x1b[")
    };
    assert!(colored("status", &[]));
    assert!(colored("volume status pg", &[("NO_COLOR", "")]));
    assert!(colored("--help", &[]));
    assert!(!colored("status", &[("NO_COLOR", "1")]));
    assert!(!colored("--help", &[("NO_COLOR", "1")]));
    assert!(!colored("--help --no-color", &[]));
    assert!(!colored("status --no-color", &[]));
    assert!(!colored("status", &[("TERM", "dumb")]));
    assert!(!colored("status --output json", &[]));
}

#[test]
fn errors_have_colors_on_a_terminal() {
    let home = Home::new();
    let (shown, code) = on_terminal(&home, "status", &[], None);
    assert_eq!(code, 5);
    assert!(shown.starts_with("\x1b[1;31merror:\x1b[0m no daemon answers"), "{shown:?}");
    let (shown, _) = on_terminal(&home, "status", &[("NO_COLOR", "1")], None);
    assert!(shown.starts_with("error: no daemon answers"), "{shown:?}");
}

#[test]
fn what_destroys_asks_first() {
    let daemon = Canned::start();
    let prompt = "destroys all it holds. Go on? [y/N] ";
    let (shown, code) = on_terminal(&daemon.home, "volume delete old --no-color", &[], Some((prompt, "n\n")));
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("error: nothing was changed"), "{shown}");
    assert!(!daemon.last_request().starts_with("DELETE"));
    let (shown, code) = on_terminal(&daemon.home, "volume delete old --no-color", &[], Some((prompt, "y\n")));
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("volume old is deleted"), "{shown}");
    assert_eq!(daemon.last_request(), "DELETE /v1/volumes/old ");
}
