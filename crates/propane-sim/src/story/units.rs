//! Durations as stories write them: `10s`, `250ms`, `17us`.

use std::time::Duration;

/// The shortest exact form of a duration.
pub(crate) fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros.is_multiple_of(1_000_000) {
        format!("{}s", micros / 1_000_000)
    } else if micros.is_multiple_of(1_000) {
        format!("{}ms", micros / 1_000)
    } else {
        format!("{micros}us")
    }
}

/// Reads what [`show`] writes.
pub(crate) fn read(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("no duration: {text}"))?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "us" => Ok(Duration::from_micros(number)),
        _ => Err(format!("no unit of time (s, ms, us): {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read() {
        for (micros, text) in [(0, "0s"), (10_000_000, "10s"), (1_250_000, "1250ms"), (17, "17us")] {
            let duration = Duration::from_micros(micros);
            assert_eq!(show(duration), text);
            assert_eq!(read(text), Ok(duration));
        }
        for bad in ["", "s", "1", "1m", "-1s", "1.5s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
