//! The few words that tasks take.

use std::process::ExitCode;
use std::str::FromStr;

/// Says what is wrong with the words, and how the task is used.
pub(crate) fn misused(task: &str, problem: &str, usage: &str) -> ExitCode {
    eprintln!("xtask {task}: {problem}\n\n{usage}");
    ExitCode::from(2)
}

/// Reads `--flag N` pairs; what is not given has its default. Numbers are at least 1.
pub(crate) fn number_flags<const COUNT: usize>(
    mut words: impl Iterator<Item = String>,
    defaults: [(&str, usize); COUNT],
) -> Result<[usize; COUNT], String> {
    let mut numbers = defaults.map(|(_, default)| default);
    while let Some(flag) = words.next() {
        let place = defaults.iter().position(|(name, _)| *name == flag);
        let place = place.ok_or_else(|| format!("unknown argument {flag}"))?;
        let value = words.next().ok_or_else(|| format!("{flag} requires a value"))?;
        numbers[place] = positive(&flag, &value)?;
    }
    Ok(numbers)
}

/// A number from 1.
pub(crate) fn positive<T: FromStr + PartialOrd + From<u8>>(flag: &str, text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number >= T::from(1));
    number.ok_or_else(|| format!("{flag}: expected a number from 1 but got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<[usize; 2], String> {
        number_flags(line.split_whitespace().map(str::to_owned), [("--a", 1), ("--b", 2)])
    }

    #[test]
    fn flags_have_numbers_and_defaults() {
        assert_eq!(parsed(""), Ok([1, 2]));
        assert_eq!(parsed("--b 7"), Ok([1, 7]));
        assert_eq!(parsed("--b").unwrap_err(), "--b requires a value");
        assert_eq!(parsed("--c 1").unwrap_err(), "unknown argument --c");
        assert_eq!(parsed("--a 0").unwrap_err(), "--a: expected a number from 1 but got \"0\"");
    }
}
