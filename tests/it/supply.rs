//! What we are built of: licences, sources and crates that stay out, as `deny.toml` says. What is known of them by now takes a
//! network: `make audit`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::app::text;

/// Crates with a published flaw, and the first version without it.
const FLAWED_BEFORE: &[(&str, [u64; 3], &str)] = &[
    ("idna", [1, 0, 0], "RUSTSEC-2024-0421"),
    ("sqlx", [0, 8, 1], "RUSTSEC-2024-0363"),
    ("hickory-proto", [0, 26, 1], "RUSTSEC-2026-0118, RUSTSEC-2026-0119"),
    ("tracing-subscriber", [0, 3, 20], "RUSTSEC-2025-0055"),
    ("h2", [0, 4, 16], "RUSTSEC-2026-0258"),
    ("rustls-webpki", [0, 103, 13], "RUSTSEC-2026-0049, -0098, -0099, -0104"),
    ("maxminddb", [0, 27, 0], "RUSTSEC-2025-0132"),
];
/// Crates nobody mends.
const ABANDONED: &[(&str, &str)] = &[
    ("backoff", "RUSTSEC-2025-0012"),
    ("serde_yaml", "it is unmaintained"),
    ("serde_yml", "it is unsound"),
    ("instant", "RUSTSEC-2024-0384"),
    ("paste", "RUSTSEC-2024-0436"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

/// Every package the program or its tests are built of on the platforms `deny.toml` names, ourselves left out.
fn packages() -> Vec<Value> {
    let mut found = BTreeMap::new();
    for target in deny()["graph"]["targets"].as_array().unwrap() {
        let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform"];
        let output =
            Command::new(env!("CARGO")).args(arguments).arg(target.as_str().unwrap()).current_dir(root()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let used: BTreeSet<_> =
            metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| text(&node["id"]).to_owned()).collect();
        for package in metadata["packages"].as_array().unwrap() {
            let id = text(&package["id"]).to_owned();
            if used.contains(&id) && !package["source"].is_null() {
                found.insert(id, package.clone());
            }
        }
    }
    assert!(found.len() > 200, "{}", found.len());
    found.into_values().collect()
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let deny = deny();
    let allowed: Vec<_> =
        deny["licenses"]["allow"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let allowed: Vec<_> = allowed.iter().map(|name| spdx::Licensee::parse(name).unwrap()).collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let (name, licence) = (text(&package["name"]), package["license"].as_str().unwrap_or_default());
        let fits = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
            .is_ok_and(|expression| expression.evaluate(|needed| allowed.iter().any(|ours| ours.satisfies(needed))));
        if !fits {
            wrong.push(format!("{name}: {licence:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_package_is_from_the_registry_and_none_is_unwanted() {
    let deny = deny();
    let unwanted: Vec<_> =
        deny["bans"]["deny"].as_array().unwrap().iter().map(|one| one["crate"].as_str().unwrap()).collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let (name, version, source) = (text(&package["name"]), text(&package["version"]), text(&package["source"]));
        if !source.starts_with("registry+") {
            wrong.push(format!("{name} is from {source}"));
        }
        if unwanted.contains(&name) {
            wrong.push(format!("{name} is unwanted"));
        }
        if let Some((_, why)) = ABANDONED.iter().find(|(abandoned, _)| *abandoned == name) {
            wrong.push(format!("{name}: {why}"));
        }
        let numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u64>().ok());
        let numbers: Vec<_> = numbers.take(3).collect();
        for (flawed, mended, advisory) in FLAWED_BEFORE {
            if *flawed == name && numbers.as_slice() < mended.as_slice() {
                wrong.push(format!("{name} {version}: {advisory}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is delivered is sent as HTTP/1.1 and read as it is: no second protocol, no decoder, no proxy of the environment's.
#[test]
fn what_sends_has_no_features_it_must_not_have() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let features = |name: &str| -> Vec<String> {
        let features = manifest["dependencies"][name]["features"].as_array().unwrap();
        features.iter().map(|feature| feature.as_str().unwrap().to_owned()).collect()
    };
    for name in ["hyper", "hyper-util"] {
        for feature in features(name) {
            assert!(
                !["http2", "full", "client-proxy", "client-proxy-system"].contains(&feature.as_str()),
                "{name}: {feature}"
            );
        }
    }
    for feature in features("reqwest") {
        assert!(
            !["gzip", "brotli", "deflate", "zstd", "system-proxy", "cookies"].contains(&feature.as_str()),
            "{feature}"
        );
    }
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
}

/// npm's packages are the tests' alone: nothing runs when they are installed, and each is what the lock file says.
#[test]
fn packages_of_npm_are_locked_by_hash() {
    for lock in ["tests/tools/package-lock.json", "scripts/anchor/package-lock.json"] {
        let lock_file: Value = serde_json::from_str(&std::fs::read_to_string(root().join(lock)).unwrap()).unwrap();
        for (name, package) in lock_file["packages"].as_object().unwrap() {
            if !name.is_empty() {
                assert!(
                    package["integrity"].as_str().is_some_and(|hash| hash.starts_with("sha512-")),
                    "{lock}: {name}"
                );
            }
        }
    }
    let need = std::fs::read_to_string(root().join("scripts/need.sh")).unwrap();
    assert_eq!(need.matches("npm ci").count(), need.matches("--ignore-scripts").count());
    let pinned = std::fs::read_to_string(root().join("tests/tools/requirements.txt")).unwrap();
    assert!(pinned.lines().all(|line| line.contains("==")), "{pinned}");
}
