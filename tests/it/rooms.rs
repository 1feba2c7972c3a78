//! Which room may know which: a `use` in the wrong direction fails here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every room, and the rooms of ours it may know. What is not listed may not be known.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("chance", &["domain"]),
    ("failpoint", &[]),
    ("checkpoints", &[]),
    ("wake", &["domain", "clock"]),
    ("store", &["domain", "checkpoints", "failpoint"]),
    ("analytics", &["domain", "checkpoints", "clock", "chance", "failpoint"]),
    ("directory", &["domain", "store", "clock", "chance"]),
    // What is read there is nobody's of ours.
    ("plausible", &["domain", "clock"]),
    ("engine", &["domain", "store", "analytics", "directory", "clock", "chance", "failpoint", "wake"]),
    ("http", &["domain", "store", "analytics", "directory", "clock", "chance", "wake"]),
    // An address is understood where it is used.
    ("config", &["domain", "analytics"]),
    ("telemetry", &["config"]),
    (
        "app",
        &[
            "domain",
            "store",
            "analytics",
            "directory",
            "engine",
            "http",
            "clock",
            "chance",
            "config",
            "telemetry",
            "wake",
        ],
    ),
    // The load generator measures from inside: it is the one part of the command line that may.
    ("bench", &["cli", "domain", "store", "analytics", "directory", "engine", "clock", "chance", "telemetry"]),
    ("cli", &["app", "domain", "store", "analytics", "directory", "clock", "chance", "config", "telemetry", "http"]),
];

/// Crates that belong to one room, and the rooms that may use them.
const CRATES: &[(&str, &[&str])] = &[
    ("sqlx", &["store", "analytics", "checkpoints", "domain", "plausible", "bench"]),
    ("rusqlite", &["store"]),
    ("axum", &["http", "cli"]),
    ("hyper_util", &["engine", "http", "cli", "bench"]),
    ("hickory_resolver", &["engine"]),
    ("governor", &["http"]),
    ("reqwest", &["cli"]),
    ("clap", &["cli", "bench"]),
    ("argon2", &["directory"]),
    ("bcrypt", &["directory"]),
    ("chacha20poly1305", &["domain"]),
];

fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap().to_owned();
                let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let first = if inside.starts_with("cli/bench") { "bench" } else { first };
                let first = if inside.starts_with("directory/plausible") { "plausible" } else { first };
                let room = first.strip_suffix(".rs").unwrap_or(first).to_owned();
                found.push((inside, room, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

/// Names that follow `prefix::` anywhere in the code, grouped imports included. Comments do not count.
fn named_after(prefix: &str, source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let single = regex::Regex::new(&format!(r"\b{prefix}::(\w+)")).unwrap();
    let grouped = regex::Regex::new(&format!(r"(?s)\b{prefix}::\{{(.*?)\}};")).unwrap();
    let mut names: BTreeSet<_> = single.captures_iter(&code).map(|capture| capture[1].to_owned()).collect();
    for group in grouped.captures_iter(&code) {
        let parts = group[1].split(',').map(|part| part.trim().split("::").next().unwrap().to_owned());
        names.extend(parts.filter(|name| !name.is_empty()));
    }
    names
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    for (path, room, source) in sources() {
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let (_, allowed) = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room} is a new room: say here what it may know"));
        for known in named_after("crate", &source) {
            let is_room = ROOMS.iter().any(|(name, _)| *name == known);
            if is_room && known != room && !allowed.contains(&known.as_str()) {
                wrong.push(format!("{} knows {known}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (path, room, source) in sources() {
        for (name, rooms) in CRATES {
            if !named_after(name, &source).is_empty() && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_domain_does_nothing_by_itself() {
    for (path, room, source) in sources() {
        if room == "domain" {
            for forbidden in ["async fn", "tokio", "std::fs", "std::net::Tcp", "std::env"] {
                assert!(!source.contains(forbidden), "{} has {forbidden}", path.display());
            }
        }
    }
}

#[test]
fn the_test_finds_what_it_looks_for() {
    let source =
        "use crate::store::Store;\nuse crate::{\n    engine::x,\n    http,\n};\n// crate::cli is only mentioned\n";
    let names: Vec<_> = named_after("crate", source).into_iter().collect();
    assert_eq!(names, ["engine", "http", "store"]);
}
