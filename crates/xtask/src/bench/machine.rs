//! The machine, as far as it matters to those who compare, and the versions of what ran on it.

use std::fs;
use std::process::Command;

use super::results::Machine;

pub(super) fn describe() -> Machine {
    let processor = line("/proc/cpuinfo", "model name").trim_start_matches([' ', '\t', ':']).to_owned();
    let memory_kib: u64 =
        line("/proc/meminfo", "MemTotal:").split_whitespace().next().map_or(0, |kib| kib.parse().unwrap_or(0));
    let load = load_average();
    Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        processor,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_gib: memory_kib.div_ceil(1024 * 1024),
        load_before: load,
        load_after: load,
    }
}

/// Of the last minute (`proc_loadavg(5)`).
pub(super) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().map_or(0.0, |load| load.parse().unwrap_or(0.0))
}

fn line(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned()
}

/// The version in what a command prints, on either output.
pub(super) fn version(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text)).unwrap_or_else(|| "unknown".to_owned())
}

/// The last word that looks like a version: greetings may come first.
fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || "/(),".contains(c));
    let mut versions = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    versions.next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_a_sentence() {
        let rows = [
            ("nginx version: nginx/1.22.1\n", Some("1.22.1")),
            ("gunicorn (version 27.0.1)", Some("27.0.1")),
            ("puma version 5.6.5", Some("5.6.5")),
            ("2.11.3.2-1", Some("2.11.3.2-1")),
            ("no idea", None),
        ];
        for (text, version) in rows {
            assert_eq!(version_in(text).as_deref(), version, "{text:?}");
        }
    }
}
