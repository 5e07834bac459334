//! A policy as `key=value` words, of which only those that differ from the default are written.

use propane_core::{Policy, RespawnMode, TurnAway};

use super::units;

/// Every key, in the order in which they are written.
const KEYS: [&str; 22] = [
    "workers",
    "jobs",
    "respawn",
    "respawn-delay",
    "respawn-delay-max",
    "job-respawn-delay",
    "graceful",
    "settle",
    "surge",
    "overlap",
    "turn-away",
    "boot-timeout",
    "heartbeat",
    "max-lifetime",
    "max-rss",
    "fd-warn",
    "fd-critical",
    "fd-retire",
    "fd-retire-count",
    "sample-interval",
    "start-limit",
    "drain",
];

/// The words for what differs from the default policy.
pub(crate) fn show(policy: &Policy) -> String {
    let default = Policy::default();
    let differs = |key: &&&str| get(policy, key) != get(&default, key);
    let words: Vec<_> = KEYS.iter().filter(differs).map(|key| format!("{key}={}", get(policy, key))).collect();
    words.join(" ")
}

/// Changes a policy by one `key=value` word.
pub(crate) fn set(policy: &mut Policy, word: &str) -> Result<(), String> {
    let (key, value) = word.split_once('=').ok_or_else(|| format!("not key=value: {word}"))?;
    match key {
        "workers" => policy.http_workers = number(value)?,
        "jobs" => policy.job_workers = number(value)?,
        "respawn" => policy.respawn = read_respawn(value)?,
        "respawn-delay" => policy.respawn_delay = units::read(value)?,
        "respawn-delay-max" => policy.respawn_delay_max = units::read(value)?,
        "job-respawn-delay" => policy.job_respawn_delay = units::read(value)?,
        "graceful" => policy.graceful_timeout = units::read(value)?,
        "settle" => policy.reload_overlap = units::read(value)?,
        "surge" => policy.reload_max_surge = number(value)?,
        "overlap" => policy.overlap_allowed = yes_or_no(value)?,
        "turn-away" => policy.turn_away = read_turn_away(value)?,
        "boot-timeout" => policy.boot_timeout = units::read(value)?,
        "heartbeat" => policy.heartbeat_timeout = optional(value, units::read)?,
        "max-lifetime" => policy.max_lifetime = optional(value, units::read)?,
        "max-rss" => policy.max_rss_kib = optional(value, number)?,
        "fd-warn" => policy.fd_limits.warn_percent = number(value)?,
        "fd-critical" => policy.fd_limits.critical_percent = number(value)?,
        "fd-retire" => policy.fd_limits.retire_percent = number(value)?,
        "fd-retire-count" => policy.fd_limits.retire_count = number(value)?,
        "sample-interval" => policy.sample_interval = units::read(value)?,
        "start-limit" => policy.start_limit_burst = number(value)?,
        "drain" => policy.shutdown_drain = units::read(value)?,
        _ => return Err(format!("no such policy key: {key}")),
    }
    Ok(())
}

fn get(policy: &Policy, key: &str) -> String {
    match key {
        "workers" => policy.http_workers.to_string(),
        "jobs" => policy.job_workers.to_string(),
        "respawn" => show_respawn(policy.respawn).to_owned(),
        "respawn-delay" => units::show(policy.respawn_delay),
        "respawn-delay-max" => units::show(policy.respawn_delay_max),
        "job-respawn-delay" => units::show(policy.job_respawn_delay),
        "graceful" => units::show(policy.graceful_timeout),
        "settle" => units::show(policy.reload_overlap),
        "surge" => policy.reload_max_surge.to_string(),
        "overlap" => if policy.overlap_allowed { "yes" } else { "no" }.to_owned(),
        "turn-away" => show_turn_away(policy.turn_away).to_owned(),
        "boot-timeout" => units::show(policy.boot_timeout),
        "heartbeat" => or_off(policy.heartbeat_timeout.map(units::show)),
        "max-lifetime" => or_off(policy.max_lifetime.map(units::show)),
        "max-rss" => or_off(policy.max_rss_kib.map(|kib| kib.to_string())),
        "fd-warn" => policy.fd_limits.warn_percent.to_string(),
        "fd-critical" => policy.fd_limits.critical_percent.to_string(),
        "fd-retire" => policy.fd_limits.retire_percent.to_string(),
        "fd-retire-count" => policy.fd_limits.retire_count.to_string(),
        "sample-interval" => units::show(policy.sample_interval),
        "start-limit" => policy.start_limit_burst.to_string(),
        "drain" => units::show(policy.shutdown_drain),
        _ => String::new(),
    }
}

fn read_respawn(value: &str) -> Result<RespawnMode, String> {
    match value {
        "always" => Ok(RespawnMode::Always),
        "never" => Ok(RespawnMode::Never),
        "once" => Ok(RespawnMode::Once),
        _ => Err(format!("respawn is always, never or once, not {value}")),
    }
}

fn show_respawn(mode: RespawnMode) -> &'static str {
    match mode {
        RespawnMode::Always => "always",
        RespawnMode::Never => "never",
        RespawnMode::Once => "once",
    }
}

fn read_turn_away(value: &str) -> Result<TurnAway, String> {
    match value {
        "nobody" => Ok(TurnAway::Nobody),
        "slots" => Ok(TurnAway::LeavingSlots),
        "all" => Ok(TurnAway::Everybody),
        _ => Err(format!("turn-away is nobody, slots or all, not {value}")),
    }
}

fn show_turn_away(turn_away: TurnAway) -> &'static str {
    match turn_away {
        TurnAway::Nobody => "nobody",
        TurnAway::LeavingSlots => "slots",
        TurnAway::Everybody => "all",
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("no number: {value}"))
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("neither yes nor no: {value}")),
    }
}

fn optional<T>(value: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if value == "off" { Ok(None) } else { read(value).map(Some) }
}

fn or_off(value: Option<String>) -> String {
    value.unwrap_or_else(|| "off".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_written_as_it_is_read() {
        let words = "workers=1 jobs=2 respawn=once respawn-delay=0s respawn-delay-max=5s job-respawn-delay=1s \
                     graceful=3s settle=2s surge=1 overlap=no turn-away=all boot-timeout=9s heartbeat=7s max-lifetime=60s \
                     max-rss=1024 fd-warn=1 fd-critical=2 fd-retire=3 fd-retire-count=4 sample-interval=1s \
                     start-limit=5 drain=6s";
        let mut policy = Policy::default();
        for word in words.split_whitespace() {
            set(&mut policy, word).expect(word);
        }
        assert_eq!(show(&policy), words);
        assert_eq!(show(&policy).split(' ').count(), KEYS.len());
        assert_eq!(show(&Policy::default()), "");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["workers", "workers=x", "overlap=1", "respawn=maybe", "heartbeat=on", "colour=red"] {
            assert!(set(&mut Policy::default(), bad).is_err(), "{bad}");
        }
    }
}
