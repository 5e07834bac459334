//! A planted mistake: a file under `crates/propane-sim/planted/`.
//!
//! It has a line of prose, the file that is wrong (`file: PATH`), the function where its name alone is not enough
//! (`in: NAME`), and what stands there rightly and wrongly. The right text must be found exactly once, so a mistake that
//! has become stale is noticed.

use std::fs;
use std::io;
use std::path::Path;

use super::Outcome;

/// One mistake.
#[derive(Clone, Debug)]
pub(crate) struct Mistake {
    pub(crate) name: String,
    /// The file that is wrong, from the root of the repository.
    pub(crate) file: String,
    /// The function that is wrong, where the text stands in others too.
    pub(crate) function: Option<String>,
    pub(crate) right: String,
    pub(crate) wrong: String,
}

/// All mistakes of a folder, by name.
pub(crate) fn read_all(folder: &Path) -> Outcome<Vec<Mistake>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    let read = |path: &Path| {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mistake = parse(name, &fs::read_to_string(path)?);
        Ok(mistake.ok_or_else(|| format!("{} is not a planted mistake", path.display()))?)
    };
    paths.iter().map(|path| read(path)).collect()
}

fn parse(name: String, text: &str) -> Option<Mistake> {
    let (head, rest) = text.split_once("\n<<<<\n")?;
    let (right, rest) = rest.split_once("\n====\n")?;
    let (wrong, end) = rest.split_once("\n>>>>\n")?;
    let field = |key| head.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let (right, wrong) = (right.to_owned(), wrong.to_owned());
    let mistake = Mistake { name, file: field("file: ")?, function: field("in: "), right, wrong };
    (end.is_empty() && mistake.right != mistake.wrong).then_some(mistake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_a_place_and_two_texts() {
        let read = parse("m".into(), "Prose.\nfile: a.rs\nin: f\n<<<<\n  x\n====\n  y\n>>>>\n").expect("a mistake");
        assert_eq!((read.file.as_str(), read.function.as_deref()), ("a.rs", Some("f")));
        assert_eq!((read.right.as_str(), read.wrong.as_str()), ("  x", "  y"));
        for text in ["", "file: a\n<<<<\nx\n====\nx\n>>>>\n", "in: f\n<<<<\nx\n====\ny\n>>>>\n", "file: a\n<<<<\nx\n"] {
            assert!(parse("m".into(), text).is_none(), "{text:?}");
        }
    }
}
