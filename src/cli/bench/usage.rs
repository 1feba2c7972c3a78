//! What processes of this machine have used, as Linux tells it under `/proc`. Where it does not tell, there is no figure.

/// Ticks a second of the times in `/proc`: hundredths on every Linux, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;
const KIB_PER_MIB: f64 = 1_024.0;

/// A line of `/proc/PID/stat`, the part of it that matters here.
struct Stat {
    parent: u32,
    /// User and system ticks of the process itself, its threads included.
    own: u64,
    /// The same of its children that have ended and were waited for.
    ended_children: u64,
}

/// CPU seconds a process has used so far, without its children.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    stat(pid).map(|stat| seconds(stat.own))
}

/// CPU seconds a process and its children have used so far, those that have ended included.
pub fn family_cpu_seconds(pid: u32) -> Option<f64> {
    let of_children: u64 = pids().filter_map(stat).filter(|stat| stat.parent == pid).map(|stat| stat.own).sum();
    let head = stat(pid)?;
    Some(seconds(head.own + head.ended_children + of_children))
}

pub fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// Resident memory in MiB, now.
pub fn resident_mib(pid: u32) -> Option<f64> {
    status(pid, "VmRSS:")
}

/// The most memory that was ever resident, in MiB.
pub fn peak_resident_mib(pid: u32) -> Option<f64> {
    status(pid, "VmHWM:")
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, parentheses and spaces included; what follows it is numbers.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}

fn status(pid: u32, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / KIB_PER_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_numbers() {
        let stat = parse_stat("17 (a (b) c) S 4 17 17 0 -1 4194560 1 2 3 4 30 12 5 6 20 0 1 0 9").unwrap();
        assert_eq!((stat.parent, stat.own, stat.ended_children), (4, 42, 11));
    }
}
