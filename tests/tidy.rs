//! The rules of this repository that the compiler does not know: layers point one way, files stay short and tell
//! their story, nothing is left unfinished, and tests wait for events instead of time.
//!
//! Each rule is a function from a file's path and text to what is wrong with it, and has a test that shows it finds
//! what it is for. Paths are relative to the repository, like `src/store/slot.rs`.

use std::fs;
use std::path::Path;

/// A layer and how high it stands: a file may name its own layer and lower ones.
const LAYERS: [(&str, u32); 8] = [
    ("base", 0),
    ("store", 1),
    // As high as the store: neither may name the other.
    ("transport", 1),
    ("cluster", 2),
    ("volume", 3),
    ("interface", 4),
    ("daemon", 5),
    ("cli", 6),
];

const FILE_LINES_MAX: usize = 700;

/// Tests that sleep, and why nothing better can be done: `(path, reason)`.
const SLEEPERS: [(&str, &str); 2] = [
    ("tests/e2e/cluster.rs", "asks real processes over and over, which announce nothing, and pauses in between"),
    ("tests/e2e/growth.rs", "sees that nothing happens for a time"),
];

/// Wall time jumps: where it is read at all, `(path, reason)`.
const WALL_CLOCKS: [(&str, &str); 1] = [("src/base/clock.rs", "the functions that read it")];

/// What never knows the wall time, neither by itself nor by that function. Only the silo's threads do, beside it all.
const TIMELESS: [&str; 5] =
    ["src/store/", "src/cluster/replication/", "src/cluster/state/", "src/cluster/placement/", "src/volume/"];
const CALENDARS: [(&str, &str); 1] =
    [("src/cluster/replication/service.rs", "a scrub is due by the calendar, and nothing else depends on it")];

/// What is told the time instead of asking for it, so that a simulation can tell it another.
const TOLD_THE_TIME: [&str; 9] = [
    "src/store/",
    "src/cluster/state/",
    "src/cluster/placement/",
    "src/cluster/replication/writer/",
    "src/cluster/replication/acceptor/",
    "src/cluster/replication/order.rs",
    "src/cluster/replication/message.rs",
    "src/cluster/replication/keeper.rs",
    "src/cluster/replication/scrubber.rs",
];

/// Every Rust file below `src` and `tests`, by its path.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Applies a rule to every file and shows all that it finds.
fn enforce(rule: fn(&str, &str) -> Vec<String>) {
    let files = files();
    assert!(files.len() > 20, "the sources were not found");
    let found: Vec<String> = files.iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The lines of code with their numbers: neither comments nor the inside of a string that spans lines is told apart,
/// only whole lines of comment are left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.starts_with("//"))
}

fn height(layer: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, height)| *height)
}

/// The words after each `prefix` in a line: `crate::` in `crate::base::id` gives `base::id`.
fn paths_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let starts = line.match_indices(prefix).filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    });
    starts
        .map(|(at, _)| {
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

/// Layers import downwards, interfaces do not know one another, and no path hides which layer it means.
fn layers(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let ["src", layer, inner @ ..] = parts.as_slice() else { return Vec::new() };
    let Some(own) = height(layer) else {
        // The roots of the library and of the binary stand above all layers; other folders are no layer at all.
        let known = inner.is_empty() && ["lib.rs", "main.rs"].contains(layer);
        return if known { Vec::new() } else { vec![format!("{path}: {layer} is no layer")] };
    };
    let mut found = Vec::new();
    let mut in_tests = false;
    for (number, line) in code(text) {
        for target in paths_after(line, "crate::") {
            let mut words = target.split("::");
            let named = words.next().unwrap_or_default();
            let Some(other) = height(named) else {
                found.push(format!("{path}:{number}: name the layer after crate::"));
                continue;
            };
            if named != *layer && other >= own {
                found.push(format!("{path}:{number}: {layer} must not know {named}"));
            }
            let fellow = words.next().unwrap_or_default();
            if *layer == "interface" && named == "interface" && inner.first().is_some_and(|folder| *folder != fellow) {
                found.push(format!("{path}:{number}: interface {} must not know interface {fellow}", inner[0]));
            }
        }
        // A module in `src/store/mod.rs` is one deep, one in `src/store/slot.rs` two, their tests one more: that
        // many `super` in a row lead out of the layer.
        in_tests |= line == "#[cfg(test)]";
        let deep = inner.len() + usize::from(inner.last().is_some_and(|file| *file != "mod.rs"));
        if line.contains(&"super::".repeat(deep + usize::from(in_tests))) {
            found.push(format!("{path}:{number}: super leads out of the layer: name it with crate::"));
        }
    }
    found
}

/// What tests may import whole: the module they test, and what proptest's macros expand to.
const TEST_GLOBS: [&str; 2] = ["use super::*;", "use proptest::prelude::*;"];

/// Imports name what they take.
fn globs(path: &str, text: &str) -> Vec<String> {
    let mut in_tests = path.starts_with("tests/") || path.ends_with("tests.rs") || path.contains("/tests/");
    let mut importing = false;
    let mut found = Vec::new();
    for (number, line) in code(text) {
        in_tests |= line.starts_with("#[cfg(") && line.contains("test");
        importing |= line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ");
        let glob = importing && (line.contains("::*") || line.contains("{*") || line.contains(" *,"));
        if glob && !(in_tests && TEST_GLOBS.contains(&line)) {
            found.push(format!("{path}:{number}: name what is imported instead of *"));
        }
        importing &= !line.ends_with(';');
    }
    found
}

/// A file is short enough to be read in one go.
fn lengths(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        return vec![format!("{path}: {lines} lines, and {FILE_LINES_MAX} are the most: split it")];
    }
    Vec::new()
}

/// A file begins with what it is for.
fn stories(path: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") { Vec::new() } else { vec![format!("{path}: begins without its //! story")] }
}

/// Nothing is left unfinished or printed for debugging.
fn leftovers(path: &str, text: &str) -> Vec<String> {
    let words = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("db", "g!"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        found.extend(
            words.iter().filter(|word| line.contains(*word)).map(|w| format!("{path}:{}: {w} is left", index + 1)),
        );
    }
    found
}

/// Tests wait for events: a sleep is too short on a busy machine and too long on every other.
fn sleeps(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("tests/") || SLEEPERS.iter().any(|(sleeper, _)| *sleeper == path) {
        return Vec::new();
    }
    let words =
        [concat!("thread::", "sleep"), concat!("time::", "sleep"), concat!("sleep", "_until"), concat!(" sleep", "(")];
    let sleeps = code(text).filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    sleeps.map(|(number, _)| format!("{path}:{number}: await the event instead of sleeping")).collect()
}

/// Time is passed in: the protocol, the store and the cluster state ask no clock, and wall time is known in few places.
fn clocks(path: &str, text: &str) -> Vec<String> {
    let is_in = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
    let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
    if !path.starts_with("src/") || is_test {
        return Vec::new();
    }
    let is_listed = |list: &[(&str, &str)]| list.iter().any(|(listed, _)| *listed == path);
    let mut found = Vec::new();
    for (number, line) in code(text) {
        let system = line.contains("SystemTime") && !is_listed(&WALL_CLOCKS);
        let wall = line.contains("wall_seconds") && is_in(&TIMELESS) && !is_listed(&CALENDARS);
        let asked = (line.contains("Moment::now") || line.contains("Instant::now")) && is_in(&TOLD_THE_TIME);
        if system || wall || asked {
            found.push(format!("{path}:{number}: the time is passed in here, not asked for"));
        }
    }
    found
}

/// The cluster group has its clock, timers, tasks and chance from one module, so that a simulation can be all of them.
fn surroundings(path: &str, text: &str) -> Vec<String> {
    let is_in = |folder: &str| path.starts_with(&format!("src/cluster/consensus/{folder}"));
    if !is_in("") || is_in("runtime/") || is_in("tests/") {
        return Vec::new();
    }
    let names =
        ["tokio::time", "tokio::spawn", "tokio::task", "tokio::runtime", "rand::", "Instant::now", "std::thread"];
    let lines: Vec<_> = code(text).collect();
    let named = lines.iter().filter(|(_, line)| names.iter().any(|name| line.contains(name)));
    // Without it, chance decides which branch is looked at first.
    let unfair = lines.windows(2).filter(|two| two[0].1.contains("select!") && two[1].1 != "biased;");
    let named = named.map(|(number, _)| format!("{path}:{number}: take it from consensus/runtime"));
    named.chain(unfair.map(|two| format!("{path}:{}: begin it with biased;", two[0].0))).collect()
}

#[test]
fn the_cluster_group_has_its_surroundings_from_one_place() {
    enforce(surroundings);
    let group = "src/cluster/consensus/group.rs";
    for text in ["tokio::spawn(work);", "let id = rand::random();", "tokio::select! {\n    a = b => (),"] {
        assert!(!surroundings(group, text).is_empty(), "{text}");
        assert!(surroundings("src/cluster/consensus/runtime/product.rs", text).is_empty(), "{text}");
    }
    assert!(surroundings(group, "tokio::select! {\n    biased;\n    a = b => (),").is_empty());
}

#[test]
fn time_is_passed_in() {
    enforce(clocks);
    let files = files();
    for (path, reason) in WALL_CLOCKS.into_iter().chain(CALENDARS) {
        let text = files.iter().find(|file| file.0 == path).map(|file| file.1.as_str()).unwrap_or_default();
        let reads = text.contains("SystemTime") || text.contains("wall_seconds");
        assert!(reads, "{path} no longer reads the wall time: take it off the list");
        assert!(reason.split(' ').count() > 3, "{path}: say why it must");
    }
}

#[test]
fn a_clock_that_is_asked_is_found() {
    let bad = [
        ("src/daemon/node.rs", "let now = std::time::SystemTime::now();"),
        ("src/store/silo.rs", "use crate::base::clock::{rfc3339, wall_seconds};"),
        ("src/volume/block/device.rs", "let now = wall_seconds();"),
        ("src/cluster/replication/writer/reads.rs", "let now = Moment::now();"),
        ("src/store/scrub.rs", "let began = std::time::Instant::now();"),
    ];
    for (path, text) in bad {
        assert!(!clocks(path, text).is_empty(), "{path} with {text} passed");
    }
    let good = [
        ("src/base/clock.rs", "std::time::SystemTime::now()"),
        ("src/daemon/node.rs", "let now = wall_seconds();"),
        ("src/cluster/replication/driver.rs", "let now = Moment::now();"),
        ("src/cluster/replication/service.rs", "scrubber.step(wall_seconds())"),
        ("src/store/tests/measure.rs", "let began = Instant::now();"),
        ("src/store/silo.rs", "// Instant::now would be another time at each replay."),
    ];
    for (path, text) in good {
        assert_eq!(clocks(path, text), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn layers_point_one_way() {
    enforce(layers);
}

#[test]
fn imports_name_what_they_take() {
    enforce(globs);
}

#[test]
fn files_are_short() {
    enforce(lengths);
}

#[test]
fn files_tell_their_story() {
    enforce(stories);
}

#[test]
fn nothing_is_left_unfinished() {
    enforce(leftovers);
}

#[test]
fn tests_do_not_sleep() {
    enforce(sleeps);
    let files = files();
    for (path, reason) in SLEEPERS {
        let text = files.iter().find(|file| file.0 == path).map(|file| file.1.as_str()).unwrap_or_default();
        assert!(text.contains("sleep"), "{path} no longer sleeps: take it off the list");
        assert!(reason.split(' ').count() > 3, "{path}: say why it must sleep");
    }
}

#[test]
fn a_layer_that_points_up_is_found() {
    let bad = [
        ("src/base/id.rs", "use crate::store::slot::Vote;"),
        ("src/base/id.rs", "fn f(x: crate::cli::Cli) {}"),
        ("src/store/index.rs", "use crate::transport::network::Frame;"),
        ("src/transport/tls.rs", "use crate::store::slot::Vote;"),
        ("src/cluster/replication/writer.rs", "    use crate::volume::block::device::Device;"),
        ("src/interface/nbd/session.rs", "use crate::interface::iscsi::Target;"),
        ("src/interface/nbd/session.rs", "use crate::daemon::api::Status;"),
        ("src/store/mod.rs", "use crate::{base::id::Seq, transport};"),
        ("src/store/mod.rs", "use super::transport::network::Frame;"),
        ("src/store/index.rs", "use super::super::transport::network::Frame;"),
        ("src/cluster/replication/mod.rs", "use super::super::volume::block;"),
        ("src/shared/mod.rs", ""),
        ("src/helper.rs", ""),
    ];
    for (path, text) in bad {
        assert!(!layers(path, text).is_empty(), "{path} with {text} passed");
    }
    let good = [
        ("src/store/index.rs", "use crate::base::id::Seq;"),
        ("src/store/index.rs", "use crate::store::slot::Vote;"),
        ("src/store/index.rs", "use super::slot::Vote;"),
        ("src/store/index.rs", "//! Unlike [`crate::cluster::replication`]."),
        ("src/store/segment/file.rs", "use super::super::slot::Vote;"),
        ("src/store/index.rs", "#[cfg(test)]\nmod tests {\n    use super::super::slot::Vote;\n}"),
        ("src/interface/nbd/session.rs", "use crate::interface::nbd::wire::Reply;"),
        ("src/daemon/start.rs", "use crate::store::Silo;\nuse crate::transport::tls::Listener;"),
        ("src/lib.rs", "pub mod cli;"),
        ("src/main.rs", "infinit::cli::main();"),
        ("tests/main.rs", "mod tidy;"),
    ];
    for (path, text) in good {
        assert_eq!(layers(path, text), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_glob_is_found() {
    for text in
        ["use std::io::*;", "pub use crate::base::*;", "use std::{\n    io::*,\n};", "use super::*;", "use a::{*};"]
    {
        assert!(!globs("src/base/id.rs", text).is_empty(), "{text}");
    }
    assert!(!globs("tests/tidy.rs", "use std::io::*;").is_empty());
    assert!(!globs("src/base/id.rs", "use proptest::prelude::*;").is_empty());
    for path in ["tests/nbd/mod.rs", "src/store/tests.rs", "src/store/tests/crashes.rs"] {
        assert_eq!(globs(path, "use super::*;\nuse proptest::prelude::*;"), Vec::<String>::new(), "{path}");
    }
    for text in ["use std::io;", "#[cfg(test)]\nmod tests {\n    use super::*;\n}", "let a = b::c * d;"] {
        assert_eq!(globs("src/base/id.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_long_file_is_found() {
    assert!(lengths("src/a.rs", &"\n".repeat(FILE_LINES_MAX)).is_empty());
    assert!(!lengths("src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1)).is_empty());
}

#[test]
fn a_file_without_a_story_is_found() {
    assert!(stories("src/a.rs", "//! What it is for.\n").is_empty());
    assert!(!stories("src/a.rs", "use std::io;\n").is_empty());
    assert!(!stories("src/a.rs", "").is_empty());
}

#[test]
fn a_leftover_is_found() {
    for text in [
        concat!("    to", "do!()"),
        concat!("db", "g!(x);"),
        concat!("unimple", "mented!()"),
        concat!("// TO", "DO: later"),
    ] {
        assert!(!leftovers("src/a.rs", text).is_empty(), "{text}");
    }
    assert!(leftovers("src/a.rs", "let method = 1;").is_empty());
}

#[test]
fn a_sleep_is_found() {
    let bad = [
        concat!("std::thread::", "sleep(second);"),
        concat!("tokio::time::", "sleep(second).await;"),
        concat!("    sleep", "(second).await;"),
    ];
    for text in bad {
        let text = format!("fn f() {{ {text}");
        assert!(!sleeps("tests/nbd/mod.rs", &text).is_empty(), "{text}");
        assert!(sleeps("src/cli/status.rs", &text).is_empty(), "{text}");
    }
    assert!(sleeps("tests/nbd/mod.rs", "let sleeper = 1;").is_empty());
}
