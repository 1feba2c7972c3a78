//! The real binary in a network of its own, whose internet has canaries where private services would be: see `lab/lab.py`.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::support::process::tools;
use crate::support::within;

/// Namespaces of one's own, root in them and nowhere else; nothing in them outlives the one that made them.
const APART: [&str; 7] = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"];

#[tokio::test]
#[expect(clippy::print_stdout, reason = "whoever runs it is to know that nothing was shown")]
async fn nothing_but_the_public_internet_is_spoken_to() {
    let possible = Command::new("unshare").args(APART).arg("true").output().await;
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system lets nobody make network namespaces (unshare)");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab.py");
    let mut lab = Command::new("unshare");
    lab.args(APART).arg(tools().join(".venv/bin/python")).arg(script).arg(env!("CARGO_BIN_EXE_pulsehook"));
    let output = within(Duration::from_secs(180), lab.kill_on_drop(true).output()).await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    println!("{}", told.trim());
}
