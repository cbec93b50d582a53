//! The command line as people and scripts meet it: the real binary, run with arguments, before a daemon that gives
//! canned answers.
//!
//! What is printed is compared with transcripts in `tests/cli/golden/`. After a change that is meant,
//! `INFINIT_BLESS=1 cargo test --release cli::` writes them anew, and the difference is reviewed like code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

mod answers;
mod canned;
mod errors;
mod generated;
mod help;
mod install;
mod results;
mod terminals;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_infinit");

/// A home of its own, removed with the test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    /// The binary with this home, an environment that does not depend on who runs the tests, and nothing to read.
    /// One that hangs is ended, with exit code 124, so that the test fails instead of hanging too.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "60", BINARY]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
        command.env("INFINIT_HOME", self.path()).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Transcript {
        Transcript::of(self, args, self.command(args).output().unwrap())
    }
}

/// What one call printed, and how it ended.
struct Transcript {
    call: String,
    stdout: String,
    stderr: String,
    code: i32,
}

impl Transcript {
    fn of(home: &Home, args: &[&str], output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(home.path().to_str().unwrap(), "HOME");
        let words: Vec<String> =
            args.iter()
                .map(|word| {
                    if word.contains([' ', '\n']) || word.is_empty() { format!("{word:?}") } else { (*word).to_owned() }
                })
                .collect();
        Self {
            call: format!("infinit {}", words.join(" ")).trim_end().to_owned(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            code: output.status.code().expect("the binary was killed"),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("$ {}\n{}", self.call, self.stdout);
        if !self.stderr.is_empty() {
            text.push_str(&format!("--- stderr\n{}", self.stderr));
        }
        text.push_str(&format!("--- exit {}\n", self.code));
        text
    }
}

/// Compares transcripts with the golden file of this name.
fn golden(name: &str, transcripts: &[Transcript]) {
    let found: Vec<String> = transcripts.iter().map(Transcript::text).collect();
    let found = found.join("\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(name);
    if std::env::var_os("INFINIT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != found {
        let differ = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
        let line = differ.unwrap_or(expected.lines().count().min(found.lines().count()));
        panic!(
            "{} differs from line {} on:\n  expected: {}\n  found:    {}\nall that was found:\n{found}\n\
             if this is meant: INFINIT_BLESS=1 cargo test --release cli::",
            path.display(),
            line + 1,
            expected.lines().nth(line).unwrap_or("(the end)"),
            found.lines().nth(line).unwrap_or("(the end)"),
        );
    }
}
