//! Problems as text for people.

use annotate_snippets::{
    AnnotationKind, Element, Group, Level, Origin as Location, Renderer, Snippet, normalize_untrusted_str,
};

use crate::origin::Origin;
use crate::problem::{Place, Problem, Severity};

/// Several lines: the message, each place with its source line, what was expected and what to do.
pub fn render(problem: &Problem, coloured: bool) -> String {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(one_line_of(&problem.message)).id(problem.code.as_str());
    let places = problem.place.iter().chain(&problem.related);
    let mut group = Group::with_title(title);
    for (index, place) in places.clone().enumerate() {
        let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        group = group.elements(elements(place, index, kind));
    }
    // A message that ends with it need not repeat it.
    if let Some(expected) = problem.expected.as_ref().filter(|expected| !problem.message.ends_with(*expected)) {
        group = group.element(Level::NOTE.message(format!("expected {}", normalize_untrusted_str(expected))));
    }
    if !problem.environments.is_empty() {
        group = group.element(Level::NOTE.message(format!("in the environment {}", problem.environments.join(", "))));
    }
    if let Some(suggestion) = &problem.suggestion {
        group = group.element(Level::HELP.message(normalize_untrusted_str(suggestion)));
    }
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    let text = renderer.render(&[group]);
    places
        .enumerate()
        .filter(|(_, place)| is_cut(place))
        .fold(text, |text, (index, place)| with_whole_position(text, &stand_in(index), place))
}

fn is_cut(place: &Place) -> bool {
    place.quote.as_ref().is_some_and(|quote| quote.cut)
}

/// What is rendered in place of the path of a line that was cut: its column is that of what is left of it.
fn stand_in(index: usize) -> String {
    format!("\u{e000}{index}\u{e000}")
}

/// Puts the place where the line was cut out of, for `STAND-IN:LINE:COLUMN`.
fn with_whole_position(text: String, stand_in: &str, place: &Place) -> String {
    let Some((before, after)) = text.split_once(stand_in) else { return text };
    let rest = after.trim_start_matches(|position: char| position == ':' || position.is_ascii_digit());
    format!("{before}{}{rest}", place.origin)
}

/// One line for a log: `error: config/app.plist:5:19: port must be a whole number from 1 to 65535 (found "x")`.
pub fn one_line(problem: &Problem) -> String {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = problem.place.as_ref();
    let location = place.map_or(String::new(), |place| format!("{}: ", place.origin));
    let label =
        place.filter(|place| !place.label.is_empty()).map_or(String::new(), |place| format!(" ({})", place.label));
    let suggestion = problem.suggestion.as_ref().map_or(String::new(), |suggestion| format!("; {suggestion}"));
    one_line_of(&format!("{severity}: {location}{}{label}{suggestion}", problem.message))
}

/// Text from outside as part of one line: names of variables and files may hold anything.
pub fn one_line_of(text: &str) -> String {
    normalize_untrusted_str(&text.replace(['\n', '\r'], " "))
}

fn elements(place: &Place, index: usize, kind: AnnotationKind) -> Vec<Element<'static>> {
    let name = match &place.origin {
        Origin::File { path, .. } => path.clone(),
        other => other.to_string(),
    };
    let Some(quote) = &place.quote else { return unquoted(place, &name) };
    let marked = quote.start..quote.end;
    let annotation = kind.span(marked).label(place.label.clone());
    let snippet = Snippet::source(quote.text.clone()).line_start(quote.line).annotation(annotation);
    let path = if quote.cut { stand_in(index) } else { name };
    vec![snippet.path(path).into()]
}

fn unquoted(place: &Place, name: &str) -> Vec<Element<'static>> {
    let location = Location::path(one_line_of(name));
    let location = match &place.origin {
        Origin::File { position: Some(at), .. } => location.line(at.line).char_column(at.column),
        _ => location,
    };
    let label = (!place.label.is_empty()).then(|| Level::NOTE.message(one_line_of(&place.label)).into());
    std::iter::once(location.into()).chain(label).collect()
}
