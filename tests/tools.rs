//! Programs that the tests drive. One that is missing fails the test and names the Debian package that has it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A command for an installed program.
///
/// # Panics
/// If it is not on the path; says which package to install.
pub fn tool(name: &str, package: &str) -> Command {
    Command::new(find(name, package))
}

/// The system's own Python, which finds the packages that Debian installs.
pub fn python(package: &str) -> Command {
    let python = PathBuf::from("/usr/bin/python3");
    assert!(python.exists(), "/usr/bin/python3 is missing: apt-get install python3 {package}");
    Command::new(python)
}

fn find(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: apt-get install {package}"))
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// If it fails; shows the command and both its outputs.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must fail, and returns both its outputs.
pub fn run_to_fail(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(!output.status.success(), "{command:?} did not fail:\n{}", both(&output));
    both(&output)
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
