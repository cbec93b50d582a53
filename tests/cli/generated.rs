//! Completions and manual pages stand in the repository as the binary makes them, and they work.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cli::{BINARY, Home};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn completions_are_up_to_date() {
    let home = Home::new();
    for (shell, file) in [("bash", "infinit.bash"), ("zsh", "_infinit"), ("fish", "infinit.fish")] {
        let made = home.run(&["completions", shell]).stdout;
        let kept = std::fs::read_to_string(repository().join("completions").join(file)).unwrap_or_default();
        assert!(kept == made, "out of date: run infinit completions {shell} > completions/{file}");
    }
}

#[test]
fn manual_pages_are_up_to_date() {
    let pages = |dir: &Path| -> BTreeMap<_, _> {
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.file_name().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())).collect()
    };
    let home = Home::new();
    assert_eq!(home.run(&["man", "--dir", home.path().join("man").to_str().unwrap()]).code, 0);
    let made = pages(&home.path().join("man"));
    let kept = pages(&repository().join("man"));
    assert!(made.len() >= 6);
    assert!(made == kept, "out of date: run rm man/*.1, then infinit man --dir man");
    let overview = made.values().find(|page| page.contains("EXIT STATUS")).unwrap();
    assert_eq!(&home.run(&["man"]).stdout, overview);
}

#[test]
fn manual_pages_are_clean_roff() {
    for entry in std::fs::read_dir(repository().join("man")).unwrap() {
        let page = entry.unwrap().path();
        let groff = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page).output();
        let groff = groff.expect("groff is needed: apt-get install groff-base");
        let said = String::from_utf8_lossy(&groff.stderr).into_owned();
        assert!(groff.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}

#[test]
fn bash_completes_verbs_and_options() {
    let complete = |words: &str| {
        let script = format!(
            "source completions/infinit.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _infinit infinit \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let bash = Command::new("bash").args(["-c", &script]).current_dir(repository()).stdin(Stdio::null()).output();
        String::from_utf8(bash.unwrap().stdout).unwrap()
    };
    assert_eq!(complete("infinit vol").trim(), "volume");
    assert_eq!(complete("infinit volume att").trim(), "attach");
    assert_eq!(complete("infinit volume attach pg --take").trim(), "--takeover");
    assert_eq!(complete("infinit completions f").trim(), "fish");
}

/// The binary loads nothing at run time. (What `ldd` prints for one that does would name its libraries.)
#[test]
fn the_binary_is_static() {
    let ldd = Command::new("ldd").arg(BINARY).output().unwrap();
    let said = String::from_utf8_lossy(&[ldd.stdout, ldd.stderr].concat()).into_owned();
    assert!(said.contains("statically linked") || said.contains("not a dynamic executable"), "{said}");
}
