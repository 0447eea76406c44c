//! Rows as a plain bar plot, in SVG written by hand.

use std::fmt::Write;

use crate::contestant::Kind;
use crate::results::Row;

const WIDTH: u32 = 760;
const LABEL: u32 = 150;
const BAR: u32 = 18;
const HEADING: u32 = 34;
const GAP: u32 = 14;

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Control => "#c8c8c8",
        Kind::Floor => "#9aa5b1",
        Kind::Peer => "#7fa7d6",
        Kind::Ours => "#d9663b",
    }
}

/// One group of horizontal bars per row, each row with its own scale.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut body = String::new();
    let mut y = GAP;
    for row in rows {
        let bars = || row.cells.iter().filter_map(|cell| Some((cell, cell.figure?)));
        let longest = bars().map(|(_, figure)| figure.max).fold(f64::MIN_POSITIVE, f64::max);
        let scale = f64::from(WIDTH - LABEL - 90) / longest;
        // Writing to a String cannot fail.
        let _ = writeln!(
            body,
            r#"<text x="8" y="{}" font-weight="bold">{} ({})</text>"#,
            y + 16,
            escaped(&row.name),
            escaped(row.unit)
        );
        y += HEADING - 8;
        for (cell, figure) in bars() {
            let middle = y + BAR / 2;
            let at = |value: f64| f64::from(LABEL) + value * scale;
            let _ = writeln!(
                body,
                r##"<text x="{}" y="{}" text-anchor="end">{}</text>
<rect x="{LABEL}" y="{}" width="{:.1}" height="{}" fill="{}"/>
<line x1="{:.1}" y1="{middle}" x2="{:.1}" y2="{middle}" stroke="#333"/>
<text x="{:.1}" y="{}">{:.2}</text>"##,
                LABEL - 8,
                middle + 4,
                escaped(cell.contestant),
                y + 2,
                figure.median * scale,
                BAR - 4,
                colour(cell.kind),
                at(figure.min),
                at(figure.max),
                at(figure.max) + 6.0,
                middle + 4,
                figure.median,
            );
            y += BAR;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example;

    #[test]
    fn one_bar_for_each_figure() {
        let svg = render(&[example(), example()]);
        // The background is a rectangle too; the control has no figure.
        assert_eq!(svg.matches("<rect").count(), 1 + 2 * 4);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
