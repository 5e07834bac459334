//! Bar charts as SVG text, readable on light and dark pages.

use std::fmt::Write as _;

/// A bar with its spread.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// What is written beside it.
    pub(super) text: String,
    pub(super) is_ours: bool,
}

const WIDTH: f64 = 720.0;
const LABELS: f64 = 150.0;
/// Room for the text beside the longest bar.
const TEXTS: f64 = 110.0;
const TOP: f64 = 52.0;
const ROW: f64 = 24.0;
const BAR: f64 = 16.0;
/// Values that differ by more than this are drawn on a logarithmic scale.
const LINEAR_UP_TO: f64 = 40.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 15px }
.note { fill: #57606a }
.ours { fill: #0969da }
.peer { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .ours { fill: #4493f8 }
  .peer { fill: #59636e }
}";

/// Draws the bars in the order of their values.
pub(super) fn bars(title: &str, note: &str, mut bars: Vec<Bar>) -> String {
    bars.sort_by(|one, other| one.value.total_cmp(&other.value));
    let scale = Scale::of(&bars);
    let note = if scale.is_logarithmic() { format!("{note}, logarithmic scale") } else { note.to_owned() };
    #[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
    let height = TOP + ROW * bars.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{0}\">\n<style>{STYLE}</style>\n<text class=\"title\" x=\"0\" y=\"18\">{0}</text>\n\
         <text class=\"note\" x=\"0\" y=\"37\">{1}</text>\n",
        escaped(title),
        escaped(&note)
    );
    let mut y = TOP;
    for bar in &bars {
        row(&mut svg, bar, y, scale.share(bar.value) * (WIDTH - LABELS - TEXTS));
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, bar: &Bar, y: f64, length: f64) {
    let class = if bar.is_ours { "ours" } else { "peer" };
    let baseline = y + 13.0;
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{class}\" x=\"{LABELS:.0}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
         <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
        LABELS - 8.0,
        escaped(&bar.label),
        LABELS + length + 6.0,
        escaped(&bar.text)
    );
}

/// How long a bar is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    Linear {
        most: f64,
    },
    /// From a power of ten at or below the smallest value that is not zero.
    Logarithmic {
        least: f64,
        most: f64,
    },
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let positive = || bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0);
        let most = positive().fold(0.0, f64::max);
        let least = positive().fold(f64::INFINITY, f64::min);
        if most / least <= LINEAR_UP_TO || least.is_infinite() {
            return Self::Linear { most };
        }
        // Half a decade below, so that the smallest bar is one.
        Self::Logarithmic { least: 10f64.powf(least.log10() - 0.5), most }
    }

    fn is_logarithmic(self) -> bool {
        matches!(self, Self::Logarithmic { .. })
    }

    /// From 0 to 1; nothing for zero.
    fn share(self, value: f64) -> f64 {
        match self {
            _ if value <= 0.0 => 0.0,
            Self::Linear { most } => value / most,
            Self::Logarithmic { least, most } => (value / least).ln() / (most / least).ln(),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(value: f64) -> Bar {
        Bar { label: "a & b".to_owned(), value, text: format!("{value}"), is_ours: value < 2.0 }
    }

    #[test]
    fn far_apart_is_drawn_logarithmically() {
        let linear = Scale::of(&[bar(1.0), bar(0.0), bar(4.0)]);
        assert_eq!((linear.share(0.0), linear.share(1.0), linear.share(4.0)), (0.0, 0.25, 1.0));
        let logarithmic = Scale::of(&[bar(1.0), bar(0.0), bar(1000.0)]);
        assert!(logarithmic.is_logarithmic());
        assert_eq!((logarithmic.share(0.0), logarithmic.share(1000.0)), (0.0, 1.0));
        assert!(logarithmic.share(1.0) > 0.1 && logarithmic.share(1.0) < logarithmic.share(10.0));
        assert!(Scale::of(&[bar(0.0)]).share(0.0) <= 0.0, "and is a number");
    }

    #[test]
    fn a_chart_is_well_formed_and_in_order() {
        let svg = bars("title", "note", vec![bar(3.0), bar(1.0)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.find(r#"class="ours""#) < svg.find(r#"class="peer""#), "{svg}");
        assert!(svg.contains("a &amp; b") && !svg.contains("NaN"));
    }
}
