//! A release has the web interface inside: it is built anew when `ui/dist` changes, also from nothing to something. A debug
//! build reads the files where they are.

fn main() {
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    println!("cargo:rerun-if-changed={}", if release { "ui/dist" } else { "build.rs" });
}
