//! `install.sh` into a place of its own, and out again without a trace.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cli::{BINARY, Home};

fn install(args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    Command::new("sh").arg(script).args(args).output().unwrap()
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn what_is_installed_works_and_goes_again() {
    let home = Home::new();
    let prefix = home.path().to_str().unwrap();
    let said = stdout(install(&["--prefix", prefix, "--binary", BINARY]));
    let installed = files(home.path());
    for file in &installed {
        assert!(said.contains(&format!("installed {}\n", file.display())), "{} was not named", file.display());
    }
    let has = |end: &str| installed.iter().any(|file| file.ends_with(end));
    for file in ["completions/infinit", "_infinit", "infinit.fish", "man1/infinit.1", "man1/infinit-volume.1"] {
        assert!(has(file), "{file} is missing");
    }
    let version = Command::new(home.path().join("bin/infinit")).arg("--version").output().unwrap();
    assert_eq!(stdout(version), format!("infinit {}\n", env!("CARGO_PKG_VERSION")));
    let unit = std::fs::read_to_string(home.path().join("lib/systemd/system/infinit.service")).unwrap();
    assert!(unit.contains(&format!("ExecStart={prefix}/bin/infinit --home /var/lib/infinit node run\n")), "{unit}");

    stdout(install(&["--prefix", prefix, "--binary", BINARY]));
    let said = stdout(install(&["--prefix", prefix, "--uninstall"]));
    assert_eq!(said.matches("removed ").count(), installed.len());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "{:?}", files(home.path()));
    stdout(install(&["--prefix", prefix, "--uninstall"]));
}

#[test]
fn a_package_is_made_below_its_destdir() {
    let home = Home::new();
    let destdir = home.path().to_str().unwrap();
    stdout(install(&["--destdir", destdir, "--prefix", "/usr", "--binary", BINARY]));
    let unit = std::fs::read_to_string(home.path().join("usr/lib/systemd/system/infinit.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/infinit "), "{unit}");
    stdout(install(&["--destdir", destdir, "--prefix", "/usr", "--uninstall"]));
    assert!(files(home.path()).is_empty());
}

#[test]
fn wrong_arguments_are_refused_with_a_hint() {
    let home = Home::new();
    let text = home.path().join("text");
    std::fs::write(&text, "exit 3").unwrap();
    let script = home.path().join("script");
    std::fs::write(&script, "exit 3").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cases: [(i32, &[&str]); 6] = [
        (2, &["--prefiks", "/x"]),
        (2, &["--prefix"]),
        (2, &["--prefix", "relative", "--binary", BINARY]),
        (1, &["--binary", "/nonexistent/infinit"]),
        (1, &["--binary", text.to_str().unwrap()]),
        (1, &["--binary", script.to_str().unwrap()]),
    ];
    for (code, args) in cases {
        let output = install(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains("\nhint: "), "{said}");
    }
    assert!(stdout(install(&["--help"])).contains("--uninstall"));
}
