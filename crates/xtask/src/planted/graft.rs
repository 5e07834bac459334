//! Puts mistakes into a source file so that one build holds them all: the function that is wrong gets a wrong twin, which
//! takes its place when its number is the one that is switched on.
//!
//! Functions are found by the form that rustfmt gives them: a head that ends in `{`, and a `}` that is indented as far.

use std::ops::Range;

use super::Outcome;
use super::mistake::Mistake;

/// The source with a wrong twin for each mistake, which is known by its number.
pub(crate) fn graft(source: &str, mistakes: &[(usize, &Mistake)]) -> Outcome<String> {
    let mut cuts = Vec::new();
    for (number, mistake) in mistakes {
        let place = place(source, mistake)?;
        let twin = Twin::of(&source[place.clone()], *number)?;
        let wrong = twin.wrong(&mistake.right, &mistake.wrong);
        cuts.push((place.start + twin.head_end, twin.dispatch()));
        cuts.push((place.end, format!("\n\n{wrong}")));
    }
    cuts.sort_by_key(|(at, _)| *at);
    let mut grafted = source.to_owned();
    for (at, text) in cuts.iter().rev() {
        grafted.insert_str(*at, text);
    }
    Ok(grafted)
}

/// Where the function stands in which a mistake is made.
fn place(source: &str, mistake: &Mistake) -> Outcome<Range<usize>> {
    let (name, right) = (&mistake.name, &mistake.right);
    let holds = |range: &Range<usize>| {
        let function = mistake.function.as_deref();
        function.is_none_or(|function| fn_name(&source[range.clone()]) == Some(function))
            && source[range.clone()].contains(right)
    };
    let found: Vec<_> = functions(source).into_iter().filter(holds).collect();
    let [range] = found.as_slice() else {
        return Err(format!("{name}: its text stands in {} functions of {}", found.len(), mistake.file).into());
    };
    match source[range.clone()].matches(right).count() {
        1 => Ok(range.clone()),
        count => Err(format!("{name}: its text stands {count} times in its function").into()),
    }
}

/// The functions of a file, without what is written above them.
fn functions(source: &str) -> Vec<Range<usize>> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in source.split_inclusive('\n') {
        if fn_name(line).is_some() {
            starts.push(at);
        }
        at += line.len();
    }
    let end = |start: usize| {
        let close = format!("\n{}}}\n", indent(&source[start..]));
        source[start..].find(&close).map(|length| start..start + length + close.len() - 1)
    };
    starts.into_iter().filter_map(end).collect()
}

fn indent(text: &str) -> &str {
    &text[..text.len() - text.trim_start_matches(' ').len()]
}

/// The name of the function that begins here.
fn fn_name(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let text = text.strip_prefix("pub").map_or(text, |rest| {
        let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(") ")).map_or(rest, |(_, rest)| rest);
        rest.trim_start()
    });
    text.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// A function, and what its wrong twin needs.
struct Twin<'a> {
    function: &'a str,
    name: &'a str,
    wrong_name: String,
    number: usize,
    /// Where its body begins.
    head_end: usize,
    arguments: Vec<&'a str>,
}

impl<'a> Twin<'a> {
    fn of(function: &'a str, number: usize) -> Outcome<Self> {
        let parts = || {
            let name = fn_name(function)?;
            let head_end = function.find("{\n")? + 1;
            let arguments = arguments(&function[..head_end], name)?;
            Some(Self { function, name, wrong_name: format!("{name}_{number}"), number, head_end, arguments })
        };
        parts().ok_or_else(|| format!("mistake {number}: its function has a form that is not understood").into())
    }

    fn dispatch(&self) -> String {
        let path = if indent(self.function).is_empty() { "" } else { "Self::" };
        let arguments = self.arguments.join(", ");
        format!("\nif crate::planted::is({}) {{ return {path}{}({arguments}); }}", self.number, self.wrong_name)
    }

    fn wrong(&self, right: &str, wrong: &str) -> String {
        let text = self.function.replacen(&format!("fn {}", self.name), &format!("fn {}", self.wrong_name), 1);
        // The text may begin with the function's head, which has the new name then.
        let renamed = |text: &str| text.replacen(&format!("fn {}(", self.name), &format!("fn {}(", self.wrong_name), 1);
        text.replacen(&renamed(right), &renamed(wrong), 1)
    }
}

/// The names of a function's arguments. None where one of them is a pattern.
fn arguments<'a>(head: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let after_name = head.split_once(&format!("fn {name}"))?.1;
    let list = after_name.split_once('(')?.1;
    let (mut depth, mut start, mut found) = (0u32, 0, Vec::new());
    for (at, character) in list.char_indices() {
        match character {
            ')' if depth == 0 => {
                found.push(&list[start..at]);
                break;
            }
            ',' if depth == 0 => {
                found.push(&list[start..at]);
                start = at + 1;
            }
            '(' | '<' | '[' => depth += 1,
            '>' if list[..at].ends_with('-') => {}
            ')' | '>' | ']' => depth -= 1,
            _ => {}
        }
    }
    found.into_iter().map(str::trim).filter(|argument| !argument.is_empty()).map(argument_name).collect()
}

fn argument_name(argument: &str) -> Option<&str> {
    let name = argument.split(':').next().unwrap_or_default().trim_start_matches("&mut ").trim_start_matches('&');
    let name = name.trim_start_matches("mut ").trim();
    name.chars().all(|character| character.is_alphanumeric() || character == '_').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
impl A {
    /// Doc.
    pub(super) fn first(&mut self, mut now: Time, f: impl Fn(u8, u8) -> u8, list: &[(u8, u8)]) -> u8 {
        one(now)
    }

    fn second(
        self,
        now: Time,
    ) {
        one(now)
    }
}

fn free<const N: usize>(a: u8) -> u8 {
    two(a)
}
";

    fn mistake(function: Option<&str>, right: &str, wrong: &str) -> Mistake {
        let (right, wrong, function) = (right.to_owned(), wrong.to_owned(), function.map(str::to_owned));
        Mistake { name: "m".into(), file: "a.rs".into(), function, right, wrong }
    }

    #[test]
    fn a_function_gets_a_wrong_twin() {
        let grafted = graft(SOURCE, &[(7, &mistake(None, "two(a)", "three(a)"))]).expect("a graft");
        let end = "\
fn free<const N: usize>(a: u8) -> u8 {
if crate::planted::is(7) { return free_7(a); }
    two(a)
}

fn free_7<const N: usize>(a: u8) -> u8 {
    three(a)
}
";
        assert!(grafted.ends_with(end), "{grafted}");
    }

    #[test]
    fn methods_are_called_with_all_they_take() {
        let twice = [mistake(Some("first"), "one", "three"), mistake(Some("first"), "one", "four")];
        let second = mistake(Some("second"), "one(now)", "");
        let grafted = graft(SOURCE, &[(1, &twice[0]), (2, &twice[1]), (3, &second)]).expect("a graft");
        for call in
            ["Self::first_1(self, now, f, list)", "Self::first_2(self, now, f, list)", "Self::second_3(self, now)"]
        {
            assert!(grafted.contains(call), "{call} is not in {grafted}");
        }
        let twins: Vec<_> = ["three(now)", "four(now)", "one(now)"].map(|text| grafted.matches(text).count()).to_vec();
        assert_eq!(twins, [1, 1, 2]);
    }

    #[test]
    fn a_stale_mistake_is_told_of() {
        for (function, right, expected) in [
            (None, "five", "m: its text stands in 0 functions of a.rs"),
            (None, "one(now)", "m: its text stands in 2 functions of a.rs"),
            (Some("free"), "one(now)", "m: its text stands in 0 functions of a.rs"),
            (Some("first"), "u8, u8", "m: its text stands 2 times in its function"),
        ] {
            let told = graft(SOURCE, &[(1, &mistake(function, right, ""))]).expect_err("stale");
            assert_eq!(told.to_string(), expected);
        }
    }
}
